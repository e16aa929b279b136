// Sampling against the plain float64 reading of SampleRow's comment: sort everything, filter,
// invert the CDF.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "kernels/cpu/sample_philox.h"
#include "tests/kernels/cpu/op_fixture.h"

namespace nibble {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Choice {
  int32_t id = -1;
  double margin = 1;  // how close a decision was: below ~1e-5 rounding may choose otherwise
  std::set<int32_t> survivors;
};

std::vector<double> Adjusted(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<double> l(logits.begin(), logits.end());
  if (!row.allowed.empty()) {
    const std::set<int32_t> allowed(row.allowed.begin(), row.allowed.end());
    for (size_t i = 0; i < l.size(); ++i) {
      if (!allowed.count(i)) l[i] = -kInfinity;
    }
  }
  for (int32_t id : row.forbidden) l[id] = -kInfinity;
  for (const LogitBias& bias : row.bias) l[bias.id] += bias.bias;
  for (const TokenCount& seen : row.seen) {
    double& x = l[seen.id];
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    if (seen.in_output > 0) x -= row.presence_penalty;
    x -= row.frequency_penalty * seen.in_output;
  }
  return l;
}

Choice ChooseNaively(const std::vector<float>& logits, const SampleRow& row) {
  const std::vector<double> l = Adjusted(logits, row);
  std::vector<int32_t> order(l.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
  Choice choice;
  if (row.temperature == 0) {
    choice.id = order[0];
    choice.survivors = {order[0]};
    choice.margin = l[order[0]] - l[order[1]];
    return choice;
  }
  std::vector<double> p;
  for (int32_t id : order) p.push_back(std::exp((l[id] - l[order[0]]) / double{row.temperature}));
  const auto near = [&](double distance) {
    choice.margin = std::min(choice.margin, std::abs(distance));
  };
  size_t kept = p.size();
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < kept) {
    kept = row.top_k;
    if (p[kept - 1] != p[kept]) near((p[kept - 1] - p[kept]) / p[kept - 1]);
  }
  if (row.top_p < 1) {
    const double total = std::accumulate(p.begin(), p.begin() + kept, 0.0);
    double mass = 0;
    size_t n = 0;
    while (n < kept && mass < row.top_p * total) {
      near((mass - row.top_p * total) / total);
      mass += p[n++];
    }
    near((mass - row.top_p * total) / total);
    kept = n;
  }
  for (size_t i = 0; i < kept; ++i) near(p[i] - row.min_p);
  while (kept > 1 && p[kept - 1] < row.min_p) --kept;
  std::vector<std::pair<int32_t, double>> survivors;
  for (size_t i = 0; i < kept; ++i) {
    if (p[i] > 0) survivors.emplace_back(order[i], p[i]);
  }
  std::sort(survivors.begin(), survivors.end());
  double total = 0, mass = 0;
  for (const auto& [id, weight] : survivors) {
    choice.survivors.insert(id);
    total += weight;
  }
  const double u = cpu::UniformDraw(row.seed, row.counter);
  for (const auto& [id, weight] : survivors) {
    near(mass / total - u);
    mass += weight;
    if (choice.id < 0 && mass > u * total) choice.id = id;
    near(mass / total - u);
  }
  return choice;
}

class SampleTest : public testing::TestWithParam<CpuIsa> {
 protected:
  // Samples `row` from one row of logits.
  SampledToken Sample(std::vector<float>& logits, const SampleRow& row) {
    std::vector<SampledToken> out(1);
    SampleParams params;
    params.logits = RowsOf(logits, 1, static_cast<int32_t>(logits.size()));
    params.rows = absl::MakeConstSpan(&row, 1);
    params.out = out.data();
    backend_->Sample(params);
    return out[0];
  }
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam(), 2);
};
INSTANTIATE_TEST_SUITE_P(Isa, SampleTest, testing::ValuesIn(AvailableIsas()), NameOfIsa);

// The known answers published with Random123 (kat_vectors, philox4x32 10).
TEST(PhiloxTest, KnownAnswers) {
  using testing::ElementsAre;
  EXPECT_THAT(cpu::Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  const uint32_t ones = 0xffffffffu;
  EXPECT_THAT(cpu::Philox4x32({ones, ones, ones, ones}, {ones, ones}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(cpu::Philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u},
                              {0xa4093822u, 0x299f31d0u}),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(PhiloxTest, DrawsAreInRangeAndDependOnSeedAndCounter) {
  std::set<double> draws;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (uint64_t counter = 0; counter < 50; ++counter) {
      const double u = cpu::UniformDraw(seed << 33, counter);
      EXPECT_GE(u, 0.0);
      EXPECT_LT(u, 1.0);
      draws.insert(u);
    }
  }
  EXPECT_EQ(draws.size(), 2500u);
}

TEST_P(SampleTest, GreedyTakesTheLowestIdOnTies) {
  std::vector<float> logits(1000, -1.0f);
  logits[907] = logits[333] = logits[334] = 5.0f;
  EXPECT_EQ(Sample(logits, SampleRow{}).id, 333);
}

TEST_P(SampleTest, AgreesWithTheFloat64ReferenceOverRandomRequests) {
  std::mt19937 random(20240607);
  int compared = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    SCOPED_TRACE(testing::Message() << "trial " << trial);
    const int32_t vocab = 2 + random() % (trial % 10 == 0 ? 3000 : 60);
    std::vector<float> logits = RandomFloats(random, vocab, std::exp2(random() % 5));
    if (random() % 4 == 0) {  // many exact ties
      for (float& logit : logits) logit = std::round(logit);
    }
    std::vector<TokenCount> seen;
    std::vector<LogitBias> bias;
    std::vector<int32_t> allowed, forbidden;
    for (int32_t id = 0; id < vocab; ++id) {
      if (random() % 8 == 0)
        seen.push_back(
            {id, static_cast<int32_t>(random() % 3), static_cast<int32_t>(1 + random() % 3)});
      if (random() % 10 == 0) bias.push_back({id, static_cast<float>(random() % 21) - 10.0f});
      if (random() % 2 == 0) allowed.push_back(id);
      if (random() % 9 == 0) forbidden.push_back(id);
    }
    SampleRow row;
    row.temperature = std::vector<float>{0.0f, 0.2f, 0.7f, 1.0f, 3.0f, 100.0f}[random() % 6];
    row.top_k = random() % 2 ? 1 + random() % (vocab + 3) : 0;
    row.top_p = random() % 2 ? static_cast<float>(1 + random() % 99) / 100 : 1.0f;
    row.min_p = random() % 3 == 0 ? static_cast<float>(random() % 100) / 100 : 0.0f;
    row.seed = random();
    row.counter = random();
    if (random() % 3 == 0) {
      row.repetition_penalty = 1.3f;
      row.presence_penalty = 0.5f;
      row.frequency_penalty = 0.25f;
      row.seen = seen;
    }
    if (random() % 3 == 0) row.bias = bias;
    if (random() % 4 == 0) row.allowed = allowed;
    if (random() % 4 == 0) row.forbidden = forbidden;
    const std::vector<double> adjusted = Adjusted(logits, row);
    if (*std::max_element(adjusted.begin(), adjusted.end()) == -kInfinity) continue;

    const std::vector<float> before = logits;
    const Choice expected = ChooseNaively(logits, row);
    const SampledToken drawn = Sample(logits, row);
    ASSERT_TRUE(backend_->Synchronize().ok());
    ASSERT_EQ(logits, before) << "logits were changed";
    if (expected.margin < 2e-5) continue;
    ASSERT_EQ(expected.survivors.count(drawn.id), 1u) << "id " << drawn.id << " was filtered out";
    ASSERT_EQ(drawn.id, expected.id);
    ++compared;
  }
  EXPECT_GT(compared, 1900);
}

// Ties at a boundary are kept by lowest id: exact in f32, so no margin is needed.
TEST_P(SampleTest, TopKKeepsTheLowestIdsAmongEquals) {
  std::vector<float> logits(500, 0.0f);
  logits[100] = 1.0f;
  SampleRow row;
  row.temperature = 1;
  row.top_k = 3;
  std::set<int32_t> drawn;
  for (row.counter = 0; row.counter < 200; ++row.counter) drawn.insert(Sample(logits, row).id);
  EXPECT_EQ(drawn, (std::set<int32_t>{0, 1, 100}));
}

TEST_P(SampleTest, SmallestTopPAndHottestMinPKeepOnlyTheBest) {
  std::mt19937 random(5);
  std::vector<float> logits = RandomFloats(random, 5000);
  const int32_t best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  for (float temperature : {1e-38f, 1e-6f, 1.0f, 100.0f}) {
    for (int which = 0; which < 3; ++which) {
      SampleRow row;
      row.temperature = temperature;
      if (which == 0) row.top_p = 1e-7f;
      if (which == 1) row.min_p = 1.0f;
      if (which == 2) row.top_k = 1;
      EXPECT_EQ(Sample(logits, row).id, best) << "temperature " << temperature;
    }
  }
}

// Draws follow softmax(logits / temperature): chi-square over 20 ids, seeds fixed, bound at p =
// 1e-5.
TEST_P(SampleTest, DrawsFollowTheDistribution) {
  std::mt19937 random(8);
  std::vector<float> logits = RandomFloats(random, 20, 1.0f);
  for (float top_p : {1.0f, 0.9999f}) {  // both ways to draw
    std::vector<double> p;
    for (float logit : logits) p.push_back(std::exp(logit / 0.8));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    std::vector<int> drawn(20);
    SampleRow row;
    row.temperature = 0.8f;
    row.top_p = top_p;
    row.seed = 1234;
    const int n = 40000;
    for (row.counter = 0; row.counter < n; ++row.counter) ++drawn[Sample(logits, row).id];
    double chi_square = 0;
    for (int i = 0; i < 20; ++i) {
      const double expected = n * p[i] / total;
      chi_square += (drawn[i] - expected) * (drawn[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 59.0) << "19 degrees of freedom, top_p " << top_p;
  }
}

TEST_P(SampleTest, LogprobsAreOfTheUntouchedLogits) {
  std::mt19937 random(6);
  const int32_t vocab = 3001;
  std::vector<float> logits = RandomFloats(random, vocab, 4.0f);
  logits[17] = logits[2999] = logits[40];  // a tie somewhere
  double sum = 0;
  for (float logit : logits) sum += std::exp(double{logit});
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });

  const int32_t only = order[2000];
  SampleRow row;
  row.allowed = absl::MakeConstSpan(&only, 1);
  row.temperature = 50;
  for (int32_t n : {0, 1, 20, vocab + 5}) {
    row.num_logprobs = n;
    const SampledToken token = Sample(logits, row);
    EXPECT_EQ(token.id, only);
    EXPECT_NEAR(token.logprob, logits[only] - std::log(sum), 2e-5);
    ASSERT_EQ(token.top.size(), size_t(std::min(n, vocab)));
    for (size_t i = 0; i < token.top.size(); ++i) {
      ASSERT_EQ(token.top[i].id, order[i]) << "place " << i;
      ASSERT_NEAR(token.top[i].logprob, logits[order[i]] - std::log(sum), 2e-5);
    }
  }
  row.num_logprobs = -1;
  EXPECT_TRUE(Sample(logits, row).top.empty());
}

TEST_P(SampleTest, ScoringDrawsNothing) {
  std::vector<float> logits = {0.0f, 1.0f, 2.0f, 3.0f};
  SampleRow row;
  row.score_id = 1;
  row.num_logprobs = 1;
  const SampledToken token = Sample(logits, row);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logprob, 1 - std::log(1 + std::exp(1) + std::exp(2) + std::exp(3)), 1e-6);
  ASSERT_EQ(token.top.size(), 1u);
  EXPECT_EQ(token.top[0].id, 3);
}

// Same seed and counter: the same token whatever the company, the row's place, and the threads.
TEST_P(SampleTest, CompanyAndThreadsChangeNothing) {
  std::mt19937 random(7);
  const int32_t rows = 33, vocab = 700;
  std::vector<float> logits = RandomFloats(random, rows * vocab, 2.0f);
  std::vector<SampleRow> requests(rows);
  for (int32_t r = 0; r < rows; ++r) {
    requests[r].logits_row = rows - 1 - r;
    requests[r].temperature = 1 + r % 3;
    requests[r].top_k = r % 5 * 10;
    requests[r].top_p = r % 2 ? 0.8f : 1.0f;
    requests[r].seed = r;
    requests[r].num_logprobs = 5;
  }
  for (int32_t num_threads : {1, 2, 4}) {
    auto backend = MakeBackend(GetParam(), num_threads);
    std::vector<SampledToken> out(rows);
    SampleParams params;
    params.logits = RowsOf(logits, rows, vocab);
    params.rows = requests;
    params.out = out.data();
    backend->Sample(params);
    for (int32_t r = 0; r < rows; ++r) {
      const auto from = logits.begin() + requests[r].logits_row * vocab;
      std::vector<float> alone(from, from + vocab);
      SampleRow request = requests[r];
      request.logits_row = 0;
      const SampledToken expected = Sample(alone, request);
      EXPECT_EQ(out[r].id, expected.id);
      EXPECT_EQ(out[r].logprob, expected.logprob);
      EXPECT_EQ(out[r].top[4].logprob, expected.top[4].logprob);
    }
  }
}

TEST_P(SampleTest, UnusableRowsLatchAFaultOnce) {
  const std::vector<float> good = {0.0f, 1.0f, 2.0f};
  const std::vector<int32_t> all = {0, 1, 2};
  for (int which = 0; which < 4; ++which) {
    for (float temperature : {0.0f, 1.0f}) {
      std::vector<float> logits = good;
      SampleRow row;
      row.temperature = temperature;
      if (which == 0) logits[1] = std::nanf("");
      if (which == 1) logits[2] = kInfinity;
      if (which == 2) logits.assign(3, -kInfinity);
      if (which == 3) row.forbidden = all;
      Sample(logits, row);
      const absl::Status status = backend_->Synchronize();
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << "case " << which;
      EXPECT_THAT(std::string(status.message()), testing::HasSubstr("'sample'"));
      EXPECT_TRUE(backend_->Synchronize().ok()) << "reported once";
    }
  }
}

// A request that adjusts a logit out of all bounds is that request's affair: only the model's own
// logits may latch a fault, which ends the server.
TEST_P(SampleTest, NoAdjustmentMakesAFiniteRowUnusable) {
  std::mt19937 random(9);
  const std::vector<TokenCount> seen = {{1, 1, 0}, {2, 0, 5}, {3, 1, 2}};
  for (const float scale : {1.0f, 1e30f}) {
    const std::vector<float> logits = RandomFloats(random, 300, scale);
    for (const float penalty : {1e-38f, 1e-45f, 1.0f, 1e38f}) {
      for (const float bias : {100.0f, -100.0f, 3e38f}) {
        const std::vector<LogitBias> biased = {{1, bias}, {2, -bias}, {7, bias}};
        for (const float temperature : {0.0f, 1e-45f, 1e-38f, 1.0f, 100.0f}) {
          for (int which = 0; which < 4; ++which) {
            SampleRow row;
            row.temperature = temperature;
            row.repetition_penalty = penalty;
            row.presence_penalty = row.frequency_penalty = bias > 0 ? -10 : 10;
            row.seen = seen;
            row.bias = biased;
            row.num_logprobs = 2;
            if (which == 1) row.top_k = 3;
            if (which == 2) row.top_p = 0.9f;
            if (which == 3) row.min_p = 0.1f;
            std::vector<float> copy = logits;
            const SampledToken drawn = Sample(copy, row);
            ASSERT_TRUE(backend_->Synchronize().ok())
                << scale << " / " << penalty << " + " << bias << ", temperature " << temperature;
            ASSERT_GE(drawn.id, 0);
            ASSERT_LT(drawn.id, 300);
          }
        }
      }
    }
  }
}

TEST_P(SampleTest, ALogitPenalisedBeyondAllBoundsIsTheLargest) {
  std::vector<float> logits = {0.0f, 3.0f, 5.0f, -2.0f};
  const TokenCount seen{1, 1, 0};
  for (const float temperature : {0.0f, 1e-38f, 1.0f}) {
    SampleRow row;
    row.temperature = temperature;
    row.repetition_penalty = 1e-38f;
    row.seen = absl::MakeConstSpan(&seen, 1);
    EXPECT_EQ(Sample(logits, row).id, 1) << "temperature " << temperature;
  }
  EXPECT_TRUE(backend_->Synchronize().ok());
}

// What an adjustment may not do either: make a broken model's row look sound.
TEST_P(SampleTest, AdjustmentsDoNotMendAnInfinity) {
  std::vector<float> logits = {0.0f, kInfinity, 1.0f};
  const TokenCount seen{1, 1, 1};
  const LogitBias bias{1, -100.0f};
  SampleRow row;
  row.repetition_penalty = 2;
  row.seen = absl::MakeConstSpan(&seen, 1);
  row.bias = absl::MakeConstSpan(&bias, 1);
  Sample(logits, row);
  EXPECT_EQ(backend_->Synchronize().code(), absl::StatusCode::kInternal);
}

TEST_P(SampleTest, ASingleFiniteLogitIsEnough) {
  std::vector<float> logits(300, -kInfinity);
  logits[299] = -1e30f;
  for (float temperature : {0.0f, 1e-30f, 1.0f, 100.0f}) {
    SampleRow row;
    row.temperature = temperature;
    row.top_k = 5;
    row.top_p = 0.5f;
    EXPECT_EQ(Sample(logits, row).id, 299);
  }
  EXPECT_TRUE(backend_->Synchronize().ok());
}

}  // namespace
}  // namespace nibble
