#include "engine/base/hash.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <cstring>

#define XXH_INLINE_ALL  // no library to link
#include <xxhash.h>

#include "kernels/check.h"

namespace nibble {
namespace {

void FillRandom(uint8_t* bytes, int n) { NIBBLE_CHECK(RAND_bytes(bytes, n) == 1); }

}  // namespace

Digest Sha256(absl::Span<const uint8_t> bytes) {
  Digest digest;
  SHA256(bytes.data(), bytes.size(), digest.data());
  return digest;
}

RunningSha256::RunningSha256() : context_(EVP_MD_CTX_new()) {
  NIBBLE_CHECK(context_ != nullptr);
  NIBBLE_CHECK(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

RunningSha256::~RunningSha256() { EVP_MD_CTX_free(context_); }

void RunningSha256::Add(absl::Span<const uint8_t> bytes) {
  NIBBLE_CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
}

Digest RunningSha256::Finish() {
  Digest digest;
  NIBBLE_CHECK(EVP_DigestFinal_ex(context_, digest.data(), nullptr) == 1);
  return digest;
}

uint64_t Checksum(absl::Span<const uint8_t> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::string Hex(const Digest& digest) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t byte : digest) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  while (seed == 0) FillRandom(reinterpret_cast<uint8_t*>(&seed), sizeof(seed));
  return seed;
}

uint64_t Scatter(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Digest MakeHashKey(uint64_t seed) {
  Digest key;
  if (seed == 0) {
    FillRandom(key.data(), static_cast<int>(key.size()));
    return key;
  }
  uint8_t bytes[sizeof(seed)];
  std::memcpy(bytes, &seed, sizeof(seed));
  return Sha256(bytes);
}

// The digest's algorithm is looked up once, here: OpenSSL 3 takes longer for that than for a short
// hash.
KeyedHash::KeyedHash(const Digest& key) : key_(key), context_(EVP_MD_CTX_new()) {
  NIBBLE_CHECK(context_ != nullptr);
  NIBBLE_CHECK(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
}

KeyedHash::~KeyedHash() { EVP_MD_CTX_free(context_); }

Digest KeyedHash::Chain(const Digest& parent, absl::Span<const uint8_t> piece) {
  Digest digest;
  const bool ok = EVP_DigestInit_ex(context_, nullptr, nullptr) == 1 &&
                  EVP_DigestUpdate(context_, key_.data(), key_.size()) == 1 &&
                  EVP_DigestUpdate(context_, parent.data(), parent.size()) == 1 &&
                  EVP_DigestUpdate(context_, piece.data(), piece.size()) == 1 &&
                  EVP_DigestFinal_ex(context_, digest.data(), nullptr) == 1;
  NIBBLE_CHECK(ok);
  return digest;
}

}  // namespace nibble
