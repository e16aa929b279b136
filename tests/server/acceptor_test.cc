#include "server/acceptor.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/descriptor_limit.h"
#include "server/handed_sockets.h"
#include "server/metrics_port.h"

namespace nibble {
namespace {

int ConnectTo(int32_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

void WaitFor(const std::function<bool()>& condition) {
  for (int i = 0; i < 20000 && !condition(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(condition());
}

std::shared_ptr<Log> Silent() {
  return Log::ToFunction(LogLevel::kOff, [](const std::string&) {});
}

TEST(ListenSocketTest, WhatIsNotAnAddressNamesTheFlag) {
  for (const char* bad : {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
                          "127.0.0.1:-1", "::1:50051"}) {
    const auto socket = ListenSocket::Bind(bad, "--listen");
    ASSERT_EQ(socket.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_NE(socket.status().message().find("--listen"), absl::string_view::npos);
  }
}

TEST(ListenSocketTest, PortZeroChoosesAndATakenPortIsNamed) {
  const auto first = ListenSocket::Bind("127.0.0.1:0", "--listen");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_GT(first->port(), 0);
  EXPECT_TRUE(first->loopback());
  const std::string same = absl::StrCat("127.0.0.1:", first->port());
  const auto second = ListenSocket::Bind(same, "--listen");
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(same), absl::string_view::npos);
}

TEST(ListenSocketTest, KnowsWhoCanReachIt) {
  EXPECT_FALSE(ListenSocket::Bind("0.0.0.0:0", "--listen")->loopback());
  EXPECT_FALSE(ListenSocket::Bind(":0", "--listen")->loopback());
  EXPECT_TRUE(ListenSocket::Bind("localhost:0", "--listen")->loopback());
}

TEST(AcceptorTest, HandsOverEachConnectionAndStops) {
  auto log = Silent();
  std::atomic<int> taken{0};
  auto acceptor = Acceptor::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), 100, *log, [&](int fd) {
    ++taken;
    close(fd);
  });
  ASSERT_TRUE(acceptor.ok());
  const int32_t port = (*acceptor)->port();
  for (int i = 0; i < 5; ++i) {
    const int fd = ConnectTo(port);
    ASSERT_GE(fd, 0);
    close(fd);
  }
  WaitFor([&] { return taken == 5; });
  (*acceptor)->Stop();
  (*acceptor)->Stop();
  EXPECT_EQ(ConnectTo(port), -1) << "the port is closed";
}

TEST(AcceptorTest, ConnectionsBeyondTheLimitAreClosedAtOnce) {
  auto log = Silent();
  std::vector<int> taken;
  std::atomic<int> count{0};
  auto acceptor = Acceptor::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), 8, *log, [&](int fd) {
    taken.push_back(fd);
    ++count;
  });
  ASSERT_TRUE(acceptor.ok());
  std::vector<int> clients;
  for (int i = 0; i < 20; ++i) clients.push_back(ConnectTo((*acceptor)->port()));
  char byte;
  EXPECT_EQ(recv(clients.back(), &byte, 1, 0), 0) << "closed by the server";
  EXPECT_EQ(count, 8);
  (*acceptor)->Stop();
  for (const int fd : clients) close(fd);
  for (const int fd : taken) close(fd);
}

TEST(AcceptorTest, WhoeverLeavesMakesRoomForAnother) {
  auto log = Silent();
  std::atomic<int> last{-1};
  std::atomic<int> count{0};
  auto acceptor = Acceptor::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), 1, *log, [&](int fd) {
    last = fd;
    ++count;
  });
  ASSERT_TRUE(acceptor.ok());
  for (int i = 1; i <= 3; ++i) {
    const int client = ConnectTo((*acceptor)->port());
    WaitFor([&] { return count == i; });
    close(last);  // as gRPC does, without telling
    // Its number is somebody else's now, which must not pass for the connection.
    const int other = socket(AF_INET, SOCK_STREAM, 0);
    close(client);
    const int next = ConnectTo((*acceptor)->port());
    WaitFor([&] { return count == i + 1; });
    close(last);
    close(next);
    close(other);
    count = i;
  }
  (*acceptor)->Stop();
}

// What other ports and files hold must not keep an operator out.
TEST(AcceptorTest, OnlyItsOwnConnectionsCount) {
  auto log = Silent();
  std::atomic<int> taken{0};
  auto acceptor = Acceptor::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), 2, *log, [&](int fd) {
    ++taken;
    close(fd);
  });
  ASSERT_TRUE(acceptor.ok());
  std::vector<int> others;
  for (int i = 0; i < 50; ++i) others.push_back(socket(AF_INET, SOCK_STREAM, 0));
  const int client = ConnectTo((*acceptor)->port());
  WaitFor([&] { return taken == 1; });
  close(client);
  for (const int fd : others) close(fd);
}

TEST(HandedSocketsTest, CountsTheOpenWhateverHasTheirNumbers) {
  HandedSockets handed;
  EXPECT_FALSE(handed.AtLeast(1));
  std::vector<int> fds;
  for (int i = 0; i < 3000; ++i) {  // more than one call looks at
    fds.push_back(socket(AF_UNIX, SOCK_STREAM, 0));
    if (fds.back() < 0) break;  // a machine with few descriptors
    handed.Add(fds.back());
  }
  const auto open = static_cast<int32_t>(fds.size()) - (fds.back() < 0 ? 1 : 0);
  EXPECT_TRUE(handed.AtLeast(open));
  EXPECT_FALSE(handed.AtLeast(open + 1));
  for (const int fd : fds) close(fd);
  const int reused = socket(AF_UNIX, SOCK_STREAM, 0);  // the first number again
  for (int i = 0; i < 4; ++i) handed.AtLeast(1);
  EXPECT_FALSE(handed.AtLeast(1));
  handed.Add(reused);
  EXPECT_TRUE(handed.AtLeast(1));
  EXPECT_FALSE(handed.AtLeast(2));
  close(reused);
}

// In a process of its own: limits cannot be raised again.
int RoomWith(rlim_t soft, rlim_t hard, int32_t wanted, std::string* logged) {
  auto log = Log::ToFunction(LogLevel::kInfo, [&](const std::string& line) { *logged += line; });
  const rlimit limit{.rlim_cur = soft, .rlim_max = hard};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return -2;
  const auto room = MakeRoomForConnections(wanted, *log);
  if (!room.ok()) *logged += std::string(room.status().message());
  return room.value_or(-1);
}

TEST(DescriptorLimitDeathTest, TheSoftLimitIsRaisedToHoldAllConnections) {
  const auto raises = [] {
    std::string logged;
    const int room = RoomWith(300, 1000, 500, &logged);
    rlimit now{};
    getrlimit(RLIMIT_NOFILE, &now);
    std::_Exit(room == 500 && now.rlim_cur == 500 + kOtherDescriptors && logged.empty() ? 0 : 1);
  };
  EXPECT_EXIT(raises(), ::testing::ExitedWithCode(0), "");
}

TEST(DescriptorLimitDeathTest, WhatDoesNotFitIsLoweredAndSaid) {
  const auto lowers = [] {
    std::string logged;
    const int room = RoomWith(300, 1000, 5000, &logged);
    const bool said = logged.find("max_connections_lowered") != std::string::npos &&
                      logged.find("ulimit -n 5256") != std::string::npos;
    std::_Exit(room == 1000 - kOtherDescriptors && said ? 0 : 1);
  };
  EXPECT_EXIT(lowers(), ::testing::ExitedWithCode(0), "");
}

TEST(DescriptorLimitDeathTest, NoRoomForOneIsAnErrorWithTheNumber) {
  const auto refuses = [] {
    std::string logged;
    const int room = RoomWith(100, 100, 10, &logged);
    std::_Exit(room == -1 && logged.find("needs 266") != std::string::npos ? 0 : 1);
  };
  EXPECT_EXIT(refuses(), ::testing::ExitedWithCode(0), "");
}

// CVE-2023-4785: gRPC 1.51's own listener never accepts again after this.
TEST(AcceptorTest, GoesOnAfterRunningOutOfDescriptors) {
  auto log = Silent();
  std::atomic<int> taken{0};
  auto acceptor =
      Acceptor::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), 10'000, *log, [&](int fd) {
        ++taken;
        close(fd);
      });
  ASSERT_TRUE(acceptor.ok());
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>((*acceptor)->port()));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  // The kernel completes the handshake; nobody can accept it.
  ASSERT_EQ(connect(client, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(taken, 0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  WaitFor([&] { return taken == 1; });
  close(client);
}

TEST(MetricsPortTest, AnswersWhatItKnowsAndNamesTheRest) {
  const auto page = [] { return std::string("nibble_x 1\n"); };
  const std::string good = AnswerHttp("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", page);
  EXPECT_NE(good.find("200 OK"), std::string::npos);
  EXPECT_NE(good.find("Content-Length: 11\r\n"), std::string::npos);
  EXPECT_NE(good.find("\r\n\r\nnibble_x 1\n"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET /metrics?x=1 HTTP/1.1\r\n\r\n", page).find("200"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET / HTTP/1.1\r\n\r\n", page).find("404"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET /metricsx HTTP/1.1\r\n\r\n", page).find("404"), std::string::npos);
  EXPECT_NE(AnswerHttp("POST /metrics HTTP/1.1\r\n\r\n", page).find("405"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET /metrics HTTP/1.1\r\n", page).find("400"), std::string::npos);
  EXPECT_NE(AnswerHttp("", page).find("400"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET\r\n\r\n", page).find("405"), std::string::npos);
  EXPECT_NE(AnswerHttp("GET \r\n\r\n", page).find("404"), std::string::npos);
}

TEST(MetricsPortTest, AClientThatSaysNothingDoesNotKeepOthersOut) {
  auto log = Silent();
  auto port = MetricsPort::Start(*ListenSocket::Bind("127.0.0.1:0", "x"), *log,
                                 [] { return std::string("m 1\n"); });
  ASSERT_TRUE(port.ok());
  const int silent = ConnectTo((*port)->port());
  const int good = ConnectTo((*port)->port());
  const std::string request = "GET /metrics HTTP/1.1\r\n\r\n";
  ASSERT_EQ(send(good, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  char buffer[512];
  const ssize_t n = recv(good, buffer, sizeof(buffer), 0);
  ASSERT_GT(n, 0);
  EXPECT_NE(std::string(buffer, n).find("200 OK"), std::string::npos);
  close(silent);
  close(good);
}

}  // namespace
}  // namespace nibble
