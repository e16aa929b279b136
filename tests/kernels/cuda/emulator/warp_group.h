// The products of warp groups (wgmma) of the running block: what each warp has asked for, done as
// late as the rules allow, in the wait; until then accumulators are NaNs.
//
// Faults: a product whose registers no OrderRegisters came before; operands in shared memory that
// their writer has not ordered for products before the last barrier, or that are written before the
// wait; a descriptor that is not SwizzledRows'; warps of a group that ask for unlike products; a
// block whose warps make no whole groups; products still open at the exit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <source_location>
#include <string>
#include <vector>

namespace nibble::emulator {

class Block;
using Location = std::source_location;

// What each lane passes to a product.
struct GroupProductArgument {
  float* d;  // [tiles, 4]
  const uint32_t* a;
  uint64_t b;
  int tiles;
  bool add, f16;
  Location where;
};

class WarpGroups {
 public:
  explicit WarpGroups(Block& block) : block_(block) {}
  void StartBlock(int num_warps);

  // By the running thread for its warp, all of whose lanes are there.
  void OrderRegisters(int warp) { warps_[warp].ordered = true; }
  void Multiply(int warp, void* const* arguments);
  void Commit(int warp);
  void Wait(int warp, int pending);

  // Whether a warp may exit: empty, or what is open.
  std::string Open(int warp) const;
  // At the block's end: whether warps of a group asked for the same; else what not.
  std::string Unlike() const;

 private:
  struct Product {
    uint32_t a[32][4];
    float* d;  // lane 0's: the accumulators' name
    uint64_t b;
    int tiles;
    bool add, f16;
    Location where;
  };
  struct Accumulators {  // of 32 lanes, while products into them are open
    float* d[32];
    std::vector<float> values[32];
  };
  struct Warp {
    bool ordered = false;
    std::vector<std::vector<Product>> groups;  // oldest first; the last one is open
    std::map<float*, Accumulators> accumulators;
    size_t count = 0;  // of its products
  };
  struct Asked {  // by one warp of a group, of all
    uint64_t b;
    int tiles;
    bool add, f16;
    friend bool operator==(const Asked&, const Asked&) = default;
  };

  void Do(int warp, const Product& product);

  Block& block_;
  std::vector<Warp> warps_;
  std::vector<std::vector<Asked>> asked_;  // of each group
};

}  // namespace nibble::emulator
