#include "engine/scheduling/prefix_cache.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace nibble {

size_t PrefixCache::NameHash::operator()(const Digest& name) const {
  size_t head;
  std::memcpy(&head, name.data(), sizeof(head));
  return head;
}

PrefixCache::PrefixCache(BlockAllocator& allocator, int32_t block_size, const Digest& key)
    : allocator_(allocator),
      block_size_(block_size),
      hash_(key),
      by_block_(allocator.num_blocks()) {}

// The salt is hashed first so that the chain's pieces are all of one length, and no salt can pose
// as a block.
BlockNames PrefixCache::Begin(absl::string_view salt) {
  const Digest digest = Sha256({reinterpret_cast<const uint8_t*>(salt.data()), salt.size()});
  return {hash_.Chain(Digest{}, digest), {}};
}

absl::Span<const int32_t> PrefixCache::BlockTokens(absl::Span<const int32_t> tokens,
                                                   int32_t index) const {
  return tokens.subspan(static_cast<size_t>(index) * block_size_, block_size_);
}

const Digest& PrefixCache::Name(absl::Span<const int32_t> tokens, int32_t index,
                                BlockNames& names) {
  while (static_cast<int32_t>(names.names.size()) <= index) {
    const Digest& parent = names.names.empty() ? names.root : names.names.back();
    const auto piece = BlockTokens(tokens, static_cast<int32_t>(names.names.size()));
    names.names.push_back(hash_.Chain(
        parent, {reinterpret_cast<const uint8_t*>(piece.data()), piece.size() * sizeof(int32_t)}));
  }
  return names.names[index];
}

std::vector<int32_t> PrefixCache::Match(absl::Span<const int32_t> tokens, int32_t limit,
                                        BlockNames& names) {
  std::vector<int32_t> blocks;
  for (int32_t index = 0; (index + 1) * block_size_ <= limit; ++index) {
    const auto found = by_name_.find(Name(tokens, index, names));
    if (found == by_name_.end()) break;
    if (by_block_[found->second].tokens != BlockTokens(tokens, index)) break;
    allocator_.Share(found->second);
    blocks.push_back(found->second);
  }
  return blocks;
}

void PrefixCache::Publish(absl::Span<const int32_t> tokens, int32_t index, int32_t block,
                          BlockNames& names) {
  const Digest& name = Name(tokens, index, names);
  if (!by_name_.emplace(name, block).second) return;
  const auto content = BlockTokens(tokens, index);
  NIBBLE_CHECK(!by_block_[block].named);
  by_block_[block] = {true, name, {content.begin(), content.end()}};
  allocator_.KeepWhenIdle(block);
}

void PrefixCache::Forget(int32_t block) {
  NIBBLE_CHECK(by_block_[block].named);
  by_name_.erase(by_block_[block].name);
  by_block_[block] = {};
}

absl::Status PrefixCache::CheckIntegrity() const {
  int32_t named = 0;
  for (int32_t block = 0; block < allocator_.num_blocks(); ++block) {
    const Entry& entry = by_block_[block];
    if (entry.named != allocator_.kept(block) && allocator_.references(block) > 0) {
      return absl::InternalError(absl::StrCat("block ", block, " is kept and nameless, or not"));
    }
    if (!entry.named) continue;
    ++named;
    const auto found = by_name_.find(entry.name);
    if (found == by_name_.end() || found->second != block || !allocator_.kept(block)) {
      return absl::InternalError(absl::StrCat("block ", block, " has a name that leads elsewhere"));
    }
  }
  if (named != num_cached()) {
    return absl::InternalError(absl::StrCat(num_cached(), " names for ", named, " blocks"));
  }
  return absl::OkStatus();
}

}  // namespace nibble
