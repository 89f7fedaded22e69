#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "base/error.h"
#include "comm/handshake.h"
#include "comm/thread_transport.h"

namespace weft::comm {
namespace {

constexpr size_t kRankCounts[] = {1, 2, 3, 4, 5, 8};

// What rank r brings: differs by rank and place, in float with a last bit that depends on the order
// of a sum.
float value_of(size_t rank, size_t i) {
  std::minstd_rand random(static_cast<uint32_t>(rank * 7919 + i + 1));
  random.discard(3);
  return static_cast<float>(random()) / 1e9f - 1.0f;
}
std::vector<float> values_of(size_t rank, size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = value_of(rank, i);
  return out;
}
// The oracle of all sums: one after the other, rank 0 first.
std::vector<float> sums(size_t num_ranks, size_t count) {
  std::vector<float> out = values_of(0, count);
  for (size_t r = 1; r < num_ranks; ++r)
    for (size_t i = 0; i < count; ++i) out[i] += value_of(r, i);
  return out;
}

TEST(communicator, parts_cover_everything_and_begin_at_multiples_of_16) {
  for (const size_t n : kRankCounts)
    for (const size_t count : {size_t{0}, size_t{1}, size_t{15}, size_t{100}, size_t{4097}}) {
      const auto begins = even_parts(count, n);
      ASSERT_EQ(begins.size(), n + 1);
      EXPECT_EQ(begins.front(), 0u);
      EXPECT_EQ(begins.back(), count);
      for (size_t r = 0; r < n; ++r) {
        EXPECT_LE(begins[r], begins[r + 1]);
        EXPECT_TRUE(begins[r] % 16 == 0 || begins[r] == count);
      }
    }
}

TEST(communicator, messages_of_one_tag_keep_their_order_and_tags_do_not_meet) {
  run_thread_ranks(2, [](const Communicator& ranks) {
    if (ranks.rank() == 0) {
      for (const uint32_t tag : {5u, 6u, 5u}) {
        const float value[] = {static_cast<float>(tag) + (tag == 5 ? 0.25f : 0)};
        ranks.send(bytes_of(std::span<const float>(value)), 1, tag);
      }
      const float last[] = {99};
      ranks.send(bytes_of(std::span<const float>(last)), 1, 5);
    } else {
      std::vector<float> got(4);
      Request six = ranks.ireceive(writable_bytes_of(std::span(got).subspan(3, 1)), 0, 6);
      for (size_t i = 0; i < 3; ++i)
        ranks.receive(writable_bytes_of(std::span(got).subspan(i, 1)), 0, 5);
      six.wait();
      EXPECT_EQ(got, (std::vector<float>{5.25f, 5.25f, 99, 6}));
    }
  });
}

TEST(communicator, all_reduce_sums_in_the_order_of_the_ranks) {
  for (const size_t n : kRankCounts)
    for (const size_t count : {size_t{0}, size_t{1}, size_t{17}, size_t{576}, size_t{40'000}})
      run_thread_ranks(n, [&](const Communicator& ranks) {
        std::vector<float> mine = values_of(ranks.rank(), count);
        ranks.all_reduce(mine);
        EXPECT_EQ(mine, sums(n, count)) << n << " ranks, " << count << " values";
      });
}

TEST(communicator, reduce_scatter_gives_each_rank_its_part_of_the_sum) {
  for (const size_t n : kRankCounts)
    run_thread_ranks(n, [&](const Communicator& ranks) {
      constexpr size_t kCount = 5000;
      std::vector<size_t> begins = even_parts(kCount, n);
      if (n > 2) begins[1] = begins[2];  // one rank has nothing
      std::vector<float> mine = values_of(ranks.rank(), kCount);
      ranks.reduce_scatter(mine, begins);
      const std::vector<float> all = sums(n, kCount);
      for (size_t i = begins[ranks.rank()]; i < begins[ranks.rank() + 1]; ++i)
        ASSERT_EQ(mine[i], all[i]) << "rank " << ranks.rank() << ", element " << i;
    });
}

TEST(communicator, gather_broadcast_and_all_to_all_bring_everything_to_its_place) {
  for (const size_t n : kRankCounts)
    run_thread_ranks(n, [&](const Communicator& ranks) {
      const size_t r = ranks.rank();
      // part p has 3 p + (p odd) bytes; empty for p = 0
      std::vector<size_t> begins(n + 1);
      for (size_t p = 0; p < n; ++p) begins[p + 1] = begins[p] + 3 * p + p % 2;
      std::vector<uint8_t> all(begins.back());
      for (size_t i = begins[r]; i < begins[r + 1]; ++i) all[i] = static_cast<uint8_t>(i * 31 + 1);
      ranks.all_gather(writable_bytes_of(std::span(all)), begins);
      for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], static_cast<uint8_t>(i * 31 + 1));

      uint64_t word = r == n - 1 ? 4242 : 0;
      ranks.broadcast(writable_bytes_of(std::span(&word, 1)), n - 1);
      EXPECT_EQ(word, 4242u);

      // r sends to t: (r + 2 t) % 3 bytes, so that some get nothing
      std::vector<size_t> out_begins(n + 1), in_begins(n + 1);
      for (size_t t = 0; t < n; ++t) {
        out_begins[t + 1] = out_begins[t] + (r + 2 * t) % 3;
        in_begins[t + 1] = in_begins[t] + (t + 2 * r) % 3;
      }
      std::vector<uint8_t> out(out_begins.back()), in(in_begins.back());
      for (size_t t = 0; t < n; ++t)
        std::fill(out.begin() + static_cast<ptrdiff_t>(out_begins[t]),
                  out.begin() + static_cast<ptrdiff_t>(out_begins[t + 1]),
                  static_cast<uint8_t>(r * 16 + t));
      ranks.all_to_all(bytes_of(std::span<const uint8_t>(out)), out_begins,
                       writable_bytes_of(std::span(in)), in_begins);
      for (size_t t = 0; t < n; ++t)
        for (size_t i = in_begins[t]; i < in_begins[t + 1]; ++i) EXPECT_EQ(in[i], t * 16 + r);
      ranks.barrier();
    });
}

TEST(communicator, collectives_under_way_at_once_do_not_mix) {
  run_thread_ranks(4, [](const Communicator& ranks) {
    constexpr size_t kCalls = 6, kCount = 9000;
    std::vector<std::vector<float>> values(kCalls);
    std::vector<Request> requests;
    for (size_t c = 0; c < kCalls; ++c) {
      values[c] = values_of(ranks.rank() + c, kCount);
      requests.push_back(ranks.iall_reduce(values[c]));
    }
    // Each rank finishes them in another order.
    std::vector<size_t> order = {0, 1, 2, 3, 4, 5};
    std::shuffle(order.begin(), order.end(), std::minstd_rand(static_cast<uint32_t>(ranks.rank())));
    for (const size_t c : order) requests[c].wait();
    for (size_t c = 0; c < kCalls; ++c) {
      std::vector<float> expected = values_of(c, kCount);
      for (size_t r = 1; r < 4; ++r)
        for (size_t i = 0; i < kCount; ++i) expected[i] += value_of(r + c, i);
      EXPECT_EQ(values[c], expected) << "call " << c;
    }
  });
}

TEST(communicator, two_threads_of_a_rank_reduce_on_channels_of_their_own) {
  run_thread_ranks(3, [](const Communicator& ranks) {
    const auto reduce_often = [&](uint32_t channel) {
      for (size_t i = 0; i < 50; ++i) {
        std::vector<float> mine = values_of(ranks.rank() + i + channel, 100);
        std::vector<float> expected = values_of(i + channel, 100);
        for (size_t r = 1; r < 3; ++r)
          for (size_t k = 0; k < 100; ++k) expected[k] += value_of(r + i + channel, k);
        ranks.all_reduce(mine, channel);
        ASSERT_EQ(mine, expected);
      }
    };
    std::thread other([&] { reduce_often(1); });
    reduce_often(0);
    other.join();
  });
}

TEST(communicator, groups_are_communicators_of_their_own) {
  run_thread_ranks(6, [](const Communicator& ranks) {
    // columns {0, 2, 4}, {1, 3, 5}; rows {0, 1}, {2, 3}, {4, 5}
    const size_t r = ranks.rank();
    const size_t column[] = {r % 2, r % 2 + 2, r % 2 + 4}, row[] = {r / 2 * 2, r / 2 * 2 + 1};
    const Communicator down = ranks.group(column, 1), across = ranks.group(row, 2);
    EXPECT_EQ(down.rank(), r / 2);
    EXPECT_EQ(across.rank(), r % 2);
    std::vector<float> a = {static_cast<float>(r)}, b = a, c = a;
    Request first = down.iall_reduce(a), second = across.iall_reduce(b),
            third = ranks.iall_reduce(c);
    third.wait();
    second.wait();
    first.wait();
    EXPECT_EQ(a[0], static_cast<float>(3 * (r % 2) + 6));
    EXPECT_EQ(b[0], static_cast<float>(r / 2 * 4 + 1));
    EXPECT_EQ(c[0], 15);
  });
}

TEST(communicator, payload_is_counted_by_receiver) {
  run_thread_ranks(4, [](const Communicator& ranks) {
    std::vector<float> values(6400);  // 400 lines of 16: 100 each
    ranks.all_reduce(values);
    for (size_t to = 0; to < 4; ++to)  // once reduced, once gathered
      EXPECT_EQ(ranks.bytes_sent(to), to == ranks.rank() ? 0u : 2 * 1600 * sizeof(float));
  });
}

TEST(communicator, a_rank_that_ends_early_is_named_to_those_who_wait_for_it) {
  std::atomic<int> told = 0;
  try {
    run_thread_ranks(3, [&](const Communicator& ranks) {
      std::vector<float> values(100);
      if (ranks.rank() == 2) fail(ErrorKind::kIo, "the disk is full");
      try {
        ranks.all_reduce(values);
        ranks.all_reduce(values);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kPeerLost);
        told +=
            std::string(error.what()).find("rank 2 is gone: the disk is full") != std::string::npos;
      }
    });
    FAIL() << "the first error should come out";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
  }
  EXPECT_EQ(told, 2);
}

TEST(communicator, what_has_come_is_passed_on_while_its_holder_does_something_else) {
  std::atomic<bool> arrived = false;
  run_thread_ranks(3, [&](const Communicator& ranks) {
    std::vector<std::byte> bytes(1000);
    if (ranks.rank() == 0) {
      std::fill(bytes.begin(), bytes.end(), std::byte{7});
      ranks.send(bytes, 1, 3);
    } else if (ranks.rank() == 1) {
      Request in = ranks.ireceive(bytes, 0, 3);
      Request on = ranks.isend_after(in, bytes, 2, 4), last = ranks.isend_after(on, bytes, 2, 5);
      while (!arrived) ranks.poll();  // as the thread does that looks after messages
      last.wait();
      on.wait();
      in.wait();
    } else {
      for (const uint32_t tag : {4, 5}) {
        ranks.receive(bytes, 1, tag);
        EXPECT_EQ(std::count(bytes.begin(), bytes.end(), std::byte{7}), 1000);
      }
      arrived = true;
    }
  });
}

TEST(communicator, the_error_of_a_receive_is_that_of_what_should_follow) {
  std::atomic<int> told = 0;
  EXPECT_THROW(run_thread_ranks(3,
                                [&](const Communicator& ranks) {
                                  if (ranks.rank() == 0) fail(ErrorKind::kIo, "the disk is full");
                                  if (ranks.rank() == 2) return;
                                  std::byte byte{};
                                  Request in = ranks.ireceive({&byte, 1}, 0, 3);
                                  Request on = ranks.isend_after(in, {&byte, 1}, 2, 3);
                                  try {
                                    on.wait();
                                  } catch (const Error& error) {
                                    told += std::string(error.what()).find("rank 0 is gone") !=
                                            std::string::npos;
                                  }
                                }),
               Error);
  EXPECT_EQ(told, 1);
}

TEST(communicator, what_is_given_up_keeps_its_memory_and_sends_nothing_more) {
  const auto ranks = make_thread_ranks(3);
  auto buffer = std::make_shared<std::vector<std::byte>>(100);
  const std::weak_ptr<std::vector<std::byte>> memory = buffer;
  Request in = ranks[1].ireceive(*buffer, 0, 3), on = ranks[1].isend_after(in, *buffer, 2, 3);
  on.abandon(buffer);
  in.abandon(buffer);
  buffer.reset();
  ASSERT_FALSE(memory.expired());  // rank 0 may still write into it
  ranks[0].send(std::vector<std::byte>(100), 1, 3);
  EXPECT_TRUE(memory.expired());
  ranks[1].poll();
  EXPECT_EQ(ranks[1].bytes_sent(2), 0u);
}

TEST(communicator, a_wait_for_a_rank_that_never_comes_ends) {
  const auto ranks = make_thread_ranks(2, {.timeout = std::chrono::milliseconds(50)});
  std::byte byte{};
  try {
    ranks[0].receive({&byte, 1}, 1, 3);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTimeout);
    EXPECT_NE(std::string(error.what()).find("rank 1"), std::string::npos) << error.what();
  }
}

TEST(handshake, ranks_that_differ_are_refused_by_all_in_the_same_words) {
  const auto words = [](auto&& change) {
    std::mutex mutex;
    std::vector<std::string> said;
    EXPECT_THROW(run_thread_ranks(3,
                                  [&](const Communicator& ranks) {
                                    Introduction mine{"0.1.0", "a.gguf (12ab)", "tensor 3"};
                                    if (ranks.rank() == 2) change(mine);
                                    try {
                                      shake_hands(ranks, mine);
                                    } catch (const Error& error) {
                                      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
                                      const std::scoped_lock lock(mutex);
                                      said.emplace_back(error.what());
                                      throw;
                                    }
                                  }),
                 Error);
    EXPECT_EQ(said.size(), 3u);
    EXPECT_EQ(said.front(), said.back());
    return said.front();
  };
  EXPECT_NE(words([](Introduction& i) { i.version = "0.2.0"; }).find("'0.2.0'"), std::string::npos);
  EXPECT_NE(words([](Introduction& i) { i.model = "b.gguf (12ac)"; }).find("rank 2"),
            std::string::npos);
  EXPECT_NE(words([](Introduction& i) { i.plan = "tensor 1"; }).find("same options"),
            std::string::npos);
  run_thread_ranks(3, [](const Communicator& ranks) { shake_hands(ranks, {"1", "m", "p"}); });
}

}  // namespace
}  // namespace weft::comm
