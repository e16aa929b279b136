#include "cli/hints.h"

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr char kChat[] =
    R"({"chat":{"messages":[{"role":"user","content":"Why is the sky blue?"}]},)"
    R"("sampling":{"temperature":0},"stopping":{"max_tokens":32}})";
constexpr char kStreamMethod[] = "nibble.v1.GenerationService/GenerateStream";

bool OnPath(const std::string& name) {
  const char* path = std::getenv("PATH");
  for (absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    std::error_code ignored;
    if (fs::exists(fs::path(std::string(folder)) / name, ignored)) return true;
  }
  return false;
}

// `name` itself where it is on the PATH or nowhere.
std::string Tool(const std::string& name) {
  const std::string local = ".tools/bin/" + name;
  std::error_code ignored;
  return !OnPath(name) && fs::exists(local, ignored) ? local : name;
}

std::string GrpcurlTls(const TlsFiles& tls) {
  if (tls.cert.empty()) return "-plaintext";
  return absl::StrCat("-cacert CA.pem", tls.client_ca.empty() ? "" : " -cert C.pem -key C.key");
}

std::string GhzTls(const TlsFiles& tls) {
  if (tls.cert.empty()) return "--insecure";
  return absl::StrCat("--cacert CA.pem", tls.client_ca.empty() ? "" : " --cert C.pem --key C.key");
}

std::string NibbleTls(const TlsFiles& tls) {
  if (tls.cert.empty()) return "";
  return absl::StrCat(" --tls-ca CA.pem",
                      tls.client_ca.empty() ? "" : " --tls-cert C.pem --tls-key C.key");
}

}  // namespace

HintContext FindHintContext() {
  HintContext context;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  context.program = error ? "nibble" : program.string();
  const fs::path here = fs::current_path(error);
  const std::string relative = program.lexically_relative(here).string();
  if (!error && !relative.empty() && !absl::StartsWith(relative, "..")) context.program = relative;
  context.grpcurl = Tool("grpcurl");
  context.ghz = Tool("ghz");
  return context;
}

std::string ReachableAddress(const std::string& listen, int32_t port) {
  std::string host = listen.substr(0, listen.find_last_of(':'));
  if (host == "0.0.0.0" || host.empty()) host = "127.0.0.1";
  if (host == "[::]") host = "[::1]";
  return absl::StrCat(host, ":", port);
}

std::string ServingHints(const ServerOptions& options, const BoundPorts& ports,
                         const HintContext& context) {
  const std::string address = ReachableAddress(options.listen, ports.grpc);
  const TlsFiles& tls = options.tls;
  std::string text = absl::StrCat("\nServing ", options.model_name, " on ", address, ". Try:\n");
  if (options.reflection) {
    absl::StrAppend(&text, "  ", context.grpcurl, " ", GrpcurlTls(tls), " -d '", kChat, "' ",
                    address, " ", kStreamMethod, "\n");
    absl::StrAppend(&text, "  ", context.ghz, " ", GhzTls(tls), " --call ", kStreamMethod, " -d '",
                    kChat, "' -n 20 -c 4 ", address, "\n");
  }
  absl::StrAppend(&text, "  ", context.program, " generate --server ", address, NibbleTls(tls),
                  " --chat 'Why is the sky blue?' --max-tokens 32 --temperature 0\n");
  if (ports.metrics != 0) {
    absl::StrAppend(&text, "Metrics: http://",
                    ReachableAddress(options.metrics_listen, ports.metrics), "/metrics\n");
  }
  absl::StrAppend(&text, "Ctrl-C drains and exits; a second one exits at once.\n");
  return text;
}

}  // namespace nibble
