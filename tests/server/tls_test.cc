// TLS and mTLS with certificates made by the openssl program for this run.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/server/server_fixture.h"

namespace nibble {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class TlsTest : public ServerTest {
 protected:
  // One authority for servers and clients, one that nobody knows; made once for all cases.
  static void SetUpTestSuite() {
    dir_ = ::testing::TempDir() + "/nibble_tls_" + std::to_string(getpid());
    std::filesystem::create_directories(dir_);
    const auto run = [](const std::string& command) {
      ASSERT_EQ(std::system(("cd " + dir_ + " && " + command + " > /dev/null 2>&1").c_str()), 0)
          << command;
    };
    const std::string key = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ";
    for (const std::string ca : {"ca", "stranger"}) {
      run(key + ca + ".key");
      run("openssl req -x509 -new -key " + ca + ".key -days 2 -subj /CN=" + ca + " -out " + ca +
          ".crt");
    }
    std::ofstream(dir_ + "/ext") << "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
    const std::pair<const char*, const char*> kLeaves[] = {
        {"server", "ca"}, {"client", "ca"}, {"intruder", "stranger"}};
    for (const auto& [leaf, ca] : kLeaves) {
      run(key + leaf + ".key");
      run(std::string("openssl req -new -key ") + leaf + ".key -subj /CN=" + leaf + " -out " +
          leaf + ".csr");
      run(std::string("openssl x509 -req -in ") + leaf + ".csr -CA " + ca + ".crt -CAkey " + ca +
          ".key -CAcreateserial -days 2 -extfile ext -out " + leaf + ".crt");
    }
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(dir_); }

  static std::string Path(const std::string& name) { return dir_ + "/" + name; }
  void UseTls(bool client_certificates) {
    options_.tls = {.cert = Path("server.crt"),
                    .key = Path("server.key"),
                    .client_ca = client_certificates ? Path("ca.crt") : ""};
  }
  // `who` is a leaf, or "" for a client without a certificate.
  grpc::Status CallAs(const std::string& who, const std::string& trusted = "ca.crt") {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = Read(Path(trusted));
    if (!who.empty()) {
      ssl.pem_cert_chain = Read(Path(who + ".crt"));
      ssl.pem_private_key = Read(Path(who + ".key"));
    }
    return CallOver(Connect(grpc::SslCredentials(ssl)));
  }
  grpc::Status CallOver(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    v1::GenerateResponse response;
    return v1::GenerationService::NewStub(channel)->Generate(&context, TextRequest("x", 1),
                                                             &response);
  }
  std::string StartError() {
    const auto server = Server::Start(options_, clock_);
    return server.ok() ? "started" : std::string(server.status().message());
  }

  static inline std::string dir_;
};

TEST_F(TlsTest, ServesClientsThatTrustItAndNoOthers) {
  UseTls(false);
  StartServing();
  EXPECT_TRUE(CallAs("").ok());
  EXPECT_EQ(CallAs("", "stranger.crt").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallOver(Connect()).error_code(), grpc::StatusCode::UNAVAILABLE) << "plaintext";
  EXPECT_TRUE(CallAs("").ok()) << "failed handshakes leave it working";
}

TEST_F(TlsTest, MutualTlsTakesOnlyCertificatesOfItsAuthority) {
  UseTls(true);
  StartServing();
  EXPECT_TRUE(CallAs("client").ok());
  EXPECT_EQ(CallAs("").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(CallAs("intruder").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(CallAs("client").ok());
  EXPECT_EQ(engine_->submitted(), 2);
}

TEST_F(TlsTest, AnOpenPortWithTlsIsNotWarnedAbout) {
  UseTls(false);
  options_.listen = std::string("0.0.0.0:0");
  StartServer();
  EXPECT_FALSE(LogHas("listening_without_tls"));
}

TEST_F(TlsTest, WhatIsWrongWithTheFilesIsSaidAtStart) {
  options_.tls = {.cert = Path("server.crt")};
  EXPECT_NE(StartError().find("need each other"), std::string::npos);
  options_.tls = {.client_ca = Path("ca.crt")};
  EXPECT_NE(StartError().find("--tls-client-ca"), std::string::npos);
  options_.tls = {.cert = Path("missing.crt"), .key = Path("server.key")};
  EXPECT_NE(StartError().find("missing.crt: No such file"), std::string::npos);
  options_.tls = {.cert = Path("server.key"), .key = Path("server.key")};
  EXPECT_NE(StartError().find("holds no certificate"), std::string::npos);
  options_.tls = {.cert = Path("server.crt"), .key = Path("server.crt")};
  EXPECT_NE(StartError().find("holds no unencrypted private key"), std::string::npos);
  options_.tls = {.cert = Path("server.crt"), .key = Path("client.key")};
  EXPECT_NE(StartError().find("is not the key of"), std::string::npos);
  options_.tls = {.cert = Path("server.crt"), .key = Path("server.key"), .client_ca = Path("ext")};
  EXPECT_NE(StartError().find("--tls-client-ca"), std::string::npos);
}

}  // namespace
}  // namespace nibble
