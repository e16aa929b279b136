#include "tests/server/server_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <thread>

namespace nibble {

ServerTest::ServerTest() {
  options_.listen = std::string("127.0.0.1:0");  // g++ 12 warns of the plain literal
  options_.metrics_listen = options_.listen;
  options_.model_name = std::string("m");
  model_ = {.name = "m", .architecture = "llama", .weights_bytes = 123, .backend = "fake"};
  options_.drain_timeout = std::chrono::seconds(20);
  options_.turn_away_after = std::chrono::hours(1000);  // however slow a machine is
  options_.log = Log::ToFunction(LogLevel::kDebug, [this](const std::string& line) {
    MutexLock lock(mutex_);
    lines_.push_back(line);
  });
}

void ServerTest::StartServer() {
  auto server = Server::Start(options_, clock_);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  if (options_.tls.cert.empty()) {
    channel_ = Opened(Connect());
    generation_ = v1::GenerationService::NewStub(channel_);
  }
}

void ServerTest::ServeFake(const FakeEngine::Options& options) {
  FakeEngine::Options with_observer = options;
  with_observer.observer = server_->observer();
  auto engine = std::make_unique<FakeEngine>(clock_, with_observer);
  engine_ = engine.get();
  server_->Serve(std::move(engine), model_);
  if (options_.tls.cert.empty()) {
    Eventually([&] { return HealthOf("") == grpc::health::v1::HealthCheckResponse::SERVING; },
               "SERVING");
  }
}

std::string ServerTest::address() const {
  return "127.0.0.1:" + std::to_string(server_->ports().grpc);
}

std::shared_ptr<grpc::Channel> ServerTest::Connect(
    std::shared_ptr<grpc::ChannelCredentials> credentials,
    const grpc::ChannelArguments& args) const {
  grpc::ChannelArguments own = args;
  own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  return grpc::CreateCustomChannel(address(), std::move(credentials), own);
}

std::shared_ptr<grpc::Channel> ServerTest::Opened(std::shared_ptr<grpc::Channel> channel) {
  const auto end = std::chrono::system_clock::now() + std::chrono::seconds(20);
  EXPECT_TRUE(channel->WaitForConnected(end)) << "no connection";
  return channel;
}

int ServerTest::ConnectRaw(int32_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) return fd;
  close(fd);
  return -1;
}

std::string ServerTest::Scrape() const {
  const int fd = ConnectRaw(server_->ports().metrics);
  std::string reply;
  if (fd >= 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    [[maybe_unused]] const ssize_t sent = send(fd, request.data(), request.size(), 0);
    char buffer[4096];
    for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) reply.append(buffer, n);
  }
  close(fd);
  const size_t body = reply.find("\r\n\r\n");
  return body == std::string::npos ? "" : reply.substr(body + 4);
}

double ServerTest::Sample(const std::string& scrape, const std::string& series) {
  std::istringstream lines(scrape);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(series + " ", 0) == 0) return std::stod(line.substr(series.size() + 1));
  }
  return -1;
}

double ServerTest::SumOf(const std::string& scrape, const std::string& name) {
  std::istringstream lines(scrape);
  double sum = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name + "{", 0) == 0 || line.rfind(name + " ", 0) == 0) {
      sum += std::stod(line.substr(line.rfind(' ') + 1));
    }
  }
  return sum;
}

int ServerTest::OpenRequests() const {
  grpc::ClientContext context;
  v1::GetLoadResponse load;
  const grpc::Status status = v1::ModelService::NewStub(channel_)->GetLoad(&context, {}, &load);
  return status.ok() ? load.open_requests() : -1;
}

std::vector<std::string> ServerTest::LogLines() const {
  MutexLock lock(mutex_);
  return lines_;
}

bool ServerTest::LogHas(const std::string& text) const {
  for (const std::string& line : LogLines()) {
    if (line.find(text) != std::string::npos) return true;
  }
  return false;
}

void ServerTest::Eventually(const std::function<bool()>& condition, const char* what) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end) << "waited in vain for: " << what;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

grpc::health::v1::HealthCheckResponse::ServingStatus ServerTest::HealthOf(
    const std::string& name) const {
  auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(name);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  return status.ok() ? response.status() : grpc::health::v1::HealthCheckResponse::UNKNOWN;
}

grpc::ChannelArguments SmallWindow() {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // or the window grows with what it takes
  args.SetMaxReceiveMessageSize(-1);
  return args;
}

v1::GenerateRequest TextRequest(const std::string& text, int32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

v1::GenerateStreamRequest TextStreamRequest(const std::string& text, int32_t max_tokens) {
  v1::GenerateStreamRequest request;
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

std::string TrailerOf(const grpc::ClientContext& context, const std::string& key) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto found = trailers.find(key);
  return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
}

}  // namespace nibble
