#include "engine/scheduling/scheduler.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace nibble {
namespace {

// Who should lose its blocks first: cheapest for everybody. Paused ones wait anyway; then rank,
// then wasted work.
bool CheaperToPreempt(const Sequence* a, const Sequence* b) {
  const auto cost = [](const Sequence* s) {
    return std::make_tuple(!s->paused, s->params.priority, s->num_computed);
  };
  return cost(a) != cost(b) ? cost(a) < cost(b) : a->id > b->id;
}

// Blocks a newcomer must leave free beside `growing` unpaused running sequences: one for each of
// them and one for itself. Alone it takes the whole cache.
int32_t ReserveBeside(int32_t growing) { return growing > 0 ? growing + 1 : 0; }

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      allocator_(options.num_blocks),
      cache_(allocator_, options.block_size, options.cache_key) {
  NIBBLE_CHECK(options.max_running > 0 && options.max_running <= options.max_batch_tokens);
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  Sequence* added = sequence.get();
  added->names = cache_.Begin(added->params.cache_salt);
  NIBBLE_CHECK(sequences_.emplace(added->id, std::move(sequence)).second);
  waiting_.insert(added);
}

Sequence* Scheduler::Find(RequestId id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

std::unique_ptr<Sequence> Scheduler::Remove(RequestId id) {
  const auto found = sequences_.find(id);
  NIBBLE_CHECK(found != sequences_.end());
  std::unique_ptr<Sequence> sequence = std::move(found->second);
  sequences_.erase(found);
  running_.erase(sequence.get());
  waiting_.erase(sequence.get());
  ReleaseBlocks(*sequence);
  return sequence;
}

void Scheduler::Pause(RequestId id, Instant now) {
  Sequence* sequence = Find(id);
  if (sequence == nullptr || sequence->paused) return;
  sequence->paused = true;
  sequence->paused_since = now;
}

void Scheduler::Resume(RequestId id) {
  if (Sequence* sequence = Find(id)) sequence->paused = false;
}

Scheduler::Plan Scheduler::Schedule(Instant now) {
  Plan plan;
  budget_ = options_.max_batch_tokens;
  ScheduleDecodes(plan);
  SchedulePrompts(plan, now);
  const auto add_rows = [&](bool decoding) {
    for (const Sequence* sequence : running_) {
      if (sequence->num_scheduled == 0 || (sequence->num_missing() == 1) != decoding) continue;
      plan.batch.rows.push_back(MakeRow(*sequence));
      plan.batch.num_tokens += sequence->num_scheduled;
    }
  };
  add_rows(true);
  add_rows(false);
  return plan;
}

void Scheduler::ScheduleDecodes(Plan& plan) {
  const std::vector<Sequence*> in_order(running_.begin(), running_.end());
  for (Sequence* sequence : in_order) {
    if (!sequence->running || sequence->paused || sequence->num_missing() > 1) continue;
    if (Grow(*sequence, plan)) Grant(*sequence, 1);
  }
}

// Makes sure there is a block for the next token. False when the sequence itself had to give way.
bool Scheduler::Grow(Sequence& sequence, Plan& plan) {
  if (sequence.num_known() <=
      static_cast<int32_t>(sequence.block_table.size()) * options_.block_size) {
    return true;
  }
  while (allocator_.num_available() == 0) {
    Sequence* victim = VictimFor(sequence);
    if (victim == nullptr) {
      Exhaust(sequence, plan);
      return false;
    }
    Preempt(*victim, plan);
    if (victim == &sequence) return false;
  }
  sequence.block_table.push_back(TakeBlock());
  return true;
}

void Scheduler::SchedulePrompts(Plan& plan, Instant now) {
  std::vector<Sequence*> in_order;
  for (Sequence* sequence : running_) {
    if (!sequence->paused && sequence->num_missing() > 1) in_order.push_back(sequence);
  }
  const size_t num_running = in_order.size();
  // Whoever was preempted just now would be let in again only to be preempted again.
  if (plan.preempted.empty()) {
    for (Sequence* sequence : waiting_) {
      if (!sequence->paused) in_order.push_back(sequence);
    }
  }
  std::inplace_merge(in_order.begin(), in_order.begin() + num_running, in_order.end(), GoesFirst());
  const std::set<Sequence*> newcomers(waiting_.begin(), waiting_.end());
  for (Sequence* sequence : in_order) {
    if (budget_ == 0) break;
    if (newcomers.count(sequence) > 0 && IsFirstInLine(*sequence)) Admit(*sequence, plan, now);
    if (sequence->running) Grant(*sequence, std::min(budget_, sequence->num_missing()));
  }
}

bool Scheduler::IsFirstInLine(const Sequence& sequence) const {
  for (const Sequence* waiting : waiting_) {
    if (!waiting->paused) return waiting == &sequence;
  }
  return false;
}

// Gives a waiting sequence blocks for all its known tokens, those of a cached beginning filled
// already. Otherwise it goes on waiting, or is exhausted when it can never fit.
void Scheduler::Admit(Sequence& sequence, Plan& plan, Instant now) {
  const int32_t needed = BlocksFor(sequence.num_known());
  if (needed > allocator_.num_blocks()) {
    Exhaust(sequence, plan);
    return;
  }
  std::vector<int32_t> cached;
  if (options_.prefix_cache) {
    cached = cache_.Match(sequence.tokens, sequence.first_needed(), sequence.names);
  }
  const int32_t fresh = needed - static_cast<int32_t>(cached.size());
  const bool room = MakeRoom(sequence, fresh, plan);
  sequence.block_table = std::move(cached);
  if (!room) {
    ReleaseBlocks(sequence);
    return;
  }
  sequence.num_published = static_cast<int32_t>(sequence.block_table.size());
  sequence.num_computed = sequence.num_published * options_.block_size;
  while (static_cast<int32_t>(sequence.block_table.size()) < needed) {
    sequence.block_table.push_back(TakeBlock());
  }
  waiting_.erase(&sequence);
  running_.insert(&sequence);
  sequence.running = true;
  if (!sequence.first_scheduled) {
    sequence.first_scheduled = now;
    sequence.cached_tokens = sequence.num_computed;
    plan.started.push_back(sequence.id);
  }
}

bool Scheduler::HasRoom(int32_t fresh) const {
  if (static_cast<int32_t>(running_.size()) >= options_.max_running) return false;
  int32_t growing = 0;
  for (const Sequence* sequence : running_) growing += sequence->paused ? 0 : 1;
  return allocator_.num_available() >= fresh + ReserveBeside(growing);
}

// Room for `fresh` more blocks, by displacing others where that is allowed and helps.
bool Scheduler::MakeRoom(Sequence& sequence, int32_t fresh, Plan& plan) {
  if (HasRoom(fresh)) return true;
  const std::vector<Sequence*> victims = Displaceable(sequence);
  // All paused ones are among the victims, so who stays grows.
  const auto stay = static_cast<int32_t>(running_.size() - victims.size());
  const int32_t most = allocator_.num_available() + BlocksOnlyOf(victims);
  if (most < fresh + ReserveBeside(stay)) return false;
  for (Sequence* victim : victims) {
    Preempt(*victim, plan);
    if (HasRoom(fresh)) return true;
  }
  return false;
}

// Running sequences that a newcomer may displace, cheapest first.
std::vector<Sequence*> Scheduler::Displaceable(const Sequence& newcomer) const {
  std::vector<Sequence*> victims;
  for (Sequence* sequence : running_) {
    if (sequence->paused || sequence->params.priority < newcomer.params.priority) {
      victims.push_back(sequence);
    }
  }
  std::sort(victims.begin(), victims.end(), CheaperToPreempt);
  return victims;
}

// Blocks that would be available if all of `victims` gave theirs back.
int32_t Scheduler::BlocksOnlyOf(const std::vector<Sequence*>& victims) const {
  std::vector<int32_t> blocks;
  for (const Sequence* victim : victims) {
    blocks.insert(blocks.end(), victim->block_table.begin(), victim->block_table.end());
  }
  std::sort(blocks.begin(), blocks.end());
  int32_t num_freed = 0;
  for (size_t i = 0; i < blocks.size();) {
    const auto end = std::upper_bound(blocks.begin() + i, blocks.end(), blocks[i]);
    const auto held = end - (blocks.begin() + i);
    if (held == allocator_.references(blocks[i])) ++num_freed;
    i += held;
  }
  return num_freed;
}

// Null when nobody but the first sequence is left to take from.
Sequence* Scheduler::VictimFor(const Sequence& requester) const {
  const auto is_active = [](const Sequence* s) { return !s->paused; };
  const auto first = std::find_if(running_.begin(), running_.end(), is_active);
  NIBBLE_CHECK(first != running_.end());  // the requester at least
  Sequence* victim = nullptr;
  for (Sequence* sequence : running_) {
    if (sequence == *first) continue;
    if (victim == nullptr || CheaperToPreempt(sequence, victim)) victim = sequence;
  }
  NIBBLE_CHECK(victim != nullptr || &requester == *first);
  return victim;
}

void Scheduler::Preempt(Sequence& sequence, Plan& plan) {
  budget_ += sequence.num_scheduled;
  sequence.num_scheduled = 0;
  ReleaseBlocks(sequence);
  running_.erase(&sequence);
  waiting_.insert(&sequence);
  ++sequence.preemptions;
  plan.preempted.push_back(sequence.id);
}

void Scheduler::Exhaust(Sequence& sequence, Plan& plan) {
  ReleaseBlocks(sequence);
  running_.erase(&sequence);
  waiting_.erase(&sequence);
  plan.exhausted.push_back(sequence.id);
}

// From the end, so that a chain's last blocks are evicted before those that lead to them.
void Scheduler::ReleaseBlocks(Sequence& sequence) {
  while (!sequence.block_table.empty()) {
    allocator_.Release(sequence.block_table.back());
    sequence.block_table.pop_back();
  }
  sequence.num_computed = 0;
  sequence.num_published = 0;
  sequence.running = false;
}

int32_t Scheduler::TakeBlock() {
  const BlockAllocator::Taken taken = allocator_.Take();
  if (taken.evicted) cache_.Forget(taken.block);
  return taken.block;
}

void Scheduler::Grant(Sequence& sequence, int32_t num_tokens) {
  NIBBLE_CHECK(num_tokens > 0 && num_tokens <= budget_);
  sequence.num_scheduled = num_tokens;
  budget_ -= num_tokens;
}

BatchRow Scheduler::MakeRow(const Sequence& s) const {
  BatchRow row;
  row.sequence_id = s.id;
  row.tokens = s.tokens;
  row.prompt_length = s.prompt_length;
  row.num_computed = s.num_computed;
  row.num_scheduled = s.num_scheduled;
  row.block_table = s.block_table;
  row.sampling = &s.params.sampling;
  row.forbidden = s.forbidden();
  row.logprobs = s.params.response.logprobs;
  row.prompt_logprobs = s.params.response.prompt_logprobs;
  row.prompt_scored = s.prompt_scored;
  row.sample = s.num_scheduled == s.num_missing() && s.max_tokens() > 0;
  return row;
}

std::vector<Scheduler::Progress> Scheduler::Commit(const Batch& batch, const StepResult& result,
                                                   Instant now) {
  NIBBLE_CHECK(batch.rows.size() == result.rows.size());
  std::vector<Progress> progress;
  for (size_t i = 0; i < batch.rows.size(); ++i) {
    Sequence* s = Find(batch.rows[i].sequence_id);
    NIBBLE_CHECK(s != nullptr && s->num_scheduled > 0);
    Progress p{s};
    const int32_t end = s->num_computed + s->num_scheduled;
    p.recomputed = std::max(0, std::min(end, s->most_computed) - s->num_computed);
    s->recomputed_tokens += p.recomputed;
    s->num_computed = end;
    s->num_scheduled = 0;
    s->most_computed = std::max(s->most_computed, end);
    s->prompt_scored += static_cast<int32_t>(result.rows[i].prompt_logprobs.size());
    if (!s->prompt_done && end >= s->prompt_length) s->prompt_done = now;
    PublishFullBlocks(*s);
    if (result.rows[i].sampled) {
      p.new_token = true;
      s->tokens.push_back(result.rows[i].sampled->id);
      if (s->first_token) p.since_previous = now - s->last_token;
      if (!s->first_token) s->first_token = now;
      s->last_token = now;
    }
    progress.push_back(p);
  }
  return progress;
}

void Scheduler::PublishFullBlocks(Sequence& s) {
  if (!options_.prefix_cache) return;
  for (; (s.num_published + 1) * options_.block_size <= s.num_computed; ++s.num_published) {
    cache_.Publish(s.tokens, s.num_published, s.block_table[s.num_published], s.names);
  }
}

int32_t Scheduler::BlocksFor(int32_t num_tokens) const {
  return (num_tokens + options_.block_size - 1) / options_.block_size;
}

SchedulerCounts Scheduler::counts() const {
  SchedulerCounts counts;
  counts.running = static_cast<int32_t>(running_.size());
  counts.waiting = static_cast<int32_t>(waiting_.size());
  for (const Sequence* s : running_) counts.paused += s->paused ? 1 : 0;
  for (const Sequence* s : waiting_) {
    counts.paused_waiting += s->paused ? 1 : 0;
    if (!s->first_scheduled) counts.queued_prompt_tokens += s->prompt_length;
  }
  counts.blocks_in_use = allocator_.num_referenced();
  return counts;
}

absl::Status Scheduler::CheckIntegrity() const {
  std::vector<int32_t> references(allocator_.num_blocks(), 0);
  for (const auto& [id, s] : sequences_) {
    const bool runs = running_.count(s.get()) > 0;
    const int32_t room = static_cast<int32_t>(s->block_table.size()) * options_.block_size;
    const bool sound = runs == s->running && runs != (waiting_.count(s.get()) > 0) &&
                       runs == !s->block_table.empty() && s->num_computed <= room &&
                       s->num_computed < s->num_known() + (s->max_tokens() == 0 ? 1 : 0) &&
                       s->num_scheduled == 0;
    if (!sound) return absl::InternalError(absl::StrCat("sequence ", id, " contradicts itself"));
    for (size_t i = 0; i < s->block_table.size(); ++i) {
      const int32_t block = s->block_table[i];
      ++references[block];
      const bool full = static_cast<int32_t>(i + 1) * options_.block_size <= s->num_computed;
      if (allocator_.references(block) > 1 && !(full && allocator_.kept(block))) {
        return absl::InternalError(absl::StrCat("block ", block, " is shared before it is full"));
      }
    }
  }
  if (running_.size() + waiting_.size() != sequences_.size() ||
      static_cast<int32_t>(running_.size()) > options_.max_running) {
    return absl::InternalError(absl::StrCat(running_.size(), " running and ", waiting_.size(),
                                            " waiting of ", sequences_.size(), " sequences"));
  }
  for (int32_t block = 0; block < allocator_.num_blocks(); ++block) {
    if (references[block] != allocator_.references(block)) {
      return absl::InternalError(absl::StrCat("block ", block, ": ", references[block],
                                              " sequences, ", allocator_.references(block),
                                              " references"));
    }
  }
  if (absl::Status status = allocator_.CheckIntegrity(); !status.ok()) return status;
  return cache_.CheckIntegrity();
}

}  // namespace nibble
