// SHA-256 and randomness from OpenSSL: plain for provenance, keyed for names that nobody outside
// may foresee. XXH3 (xxhash.com) where only speed counts.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace nibble {

using Digest = std::array<uint8_t, 32>;

Digest Sha256(absl::Span<const uint8_t> bytes);

// The same over bytes that come in pieces. One thread at a time.
class RunningSha256 {
 public:
  RunningSha256();
  ~RunningSha256();
  RunningSha256(const RunningSha256&) = delete;
  RunningSha256& operator=(const RunningSha256&) = delete;
  void Add(absl::Span<const uint8_t> bytes);
  Digest Finish();  // once

 private:
  evp_md_ctx_st* context_;
};

std::string Hex(const Digest& digest);

// XXH3, 64 bits: notices damage, not malice. About 10 GB/s a core, the same number on every
// machine.
uint64_t Checksum(absl::Span<const uint8_t> bytes);

// 64 bits from the system's generator; never 0.
uint64_t RandomSeed();

// A bijection that scatters neighbouring numbers over 64 bits (splitmix64's finalizer, Steele et
// al. 2014). Not secret.
uint64_t Scatter(uint64_t x);

// A hash of chained pieces that cannot be foreseen or collided with on purpose without the key:
// SHA-256 over the key, the parent's digest and the piece, each of a length the caller fixes (so no
// piece can pose as another). One thread at a time. Costs about 0.3 us and 2 ns a byte.
class KeyedHash {
 public:
  explicit KeyedHash(const Digest& key);
  ~KeyedHash();
  KeyedHash(const KeyedHash&) = delete;
  KeyedHash& operator=(const KeyedHash&) = delete;

  Digest Chain(const Digest& parent, absl::Span<const uint8_t> piece);

 private:
  Digest key_;
  evp_md_ctx_st* context_;
};

// A key of all the seed there is: deterministic for tests, from RandomSeed's source when `seed` is
// 0.
Digest MakeHashKey(uint64_t seed);

}  // namespace nibble
