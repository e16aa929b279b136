// Where threads and pages go on a machine with more than one NUMA node: memory behind another
// socket is read at half the speed or less, and one node's controllers alone serve all threads when
// one thread has touched every page first.
//
// Threads are dealt to nodes by their cpus and kept on them: on the node, not on one core, so a
// neighbour that takes a core delays nobody. Each node has a share of the parts of every op, in
// order, and claims those first (thread_pool.h); a matrix has the same share of its rows there. So
// what a node computes lies mostly beside it. q, k and v of one op are exceptions: their rows are
// shared out each by itself, the op's parts over all three.
//
// Everything here is a wish: where the system refuses it (a container without mbind), work is
// slower and no bit is different.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cpu {

struct NumaNode {
  int id = 0;             // the system's number of it
  std::vector<int> cpus;  // those the calling thread may run on; never empty
};

// Reads /sys below `root` (tests have one of their own). Nodes without a usable cpu are left out;
// at most kMaxNodes, which is more than any machine this was written for. Empty where the system
// does not tell.
inline constexpr int kMaxNodes = 16;
std::vector<NumaNode> UsableNodes(const std::string& root = "");

class NumaPlacement {
 public:
  NumaPlacement() : NumaPlacement({}, 1) {}  // one node: every wish is empty
  // REQUIRES: num_threads >= 1.
  NumaPlacement(std::vector<NumaNode> nodes, int num_threads);

  int num_nodes() const { return static_cast<int>(first_thread_.size()) - 1; }
  int NodeOfThread(int thread) const;
  // Where the calling thread runs now. Cost with several nodes: some 20 ns.
  int NodeOfCaller() const;
  // Node `node` has parts FirstPart(node) .. FirstPart(node + 1) - 1, by its share of the threads.
  int FirstPart(int node, int num_parts) const;

  // Keeps the calling thread, number `thread` of the pool, on its node.
  void Settle(int thread) const;
  // Pages of [begin, begin + size_bytes) not yet touched come from the nodes one after the other,
  // by their share of the threads, in whole huge pages. Pieces of fewer than two a node are left as
  // they are.
  void SpreadRows(void* begin, int64_t size_bytes) const;
  // Pages come from all nodes in turn: for what any thread may read, as the KV cache.
  void Interleave(void* begin, int64_t size_bytes) const;

 private:
  std::vector<NumaNode> nodes_;    // two or more, else empty
  std::vector<int> first_thread_;  // of each node, and one past the last thread
  std::vector<int> node_of_cpu_;   // by cpu number
};

}  // namespace nibble::cpu
