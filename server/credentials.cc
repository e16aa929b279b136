#include "server/credentials.h"

#include <grpcpp/security/server_credentials.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace nibble {
namespace {

template <typename T, void (*Free)(T*)>
struct Freer {
  void operator()(T* p) const { Free(p); }
};
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;

struct BioFreer {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
std::unique_ptr<BIO, BioFreer> Reader(const std::string& text) {
  return std::unique_ptr<BIO, BioFreer>(
      BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::string> ReadFile(absl::string_view flag, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const int error = errno;
    const auto message = absl::StrCat(flag, " ", path, ": ", std::strerror(error));
    return error == EACCES ? absl::PermissionDeniedError(message) : absl::NotFoundError(message);
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<Certificate> ParseCertificate(absl::string_view flag, const std::string& path,
                                             const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(Reader(pem).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        flag, " ", path, " holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"));
  }
  return certificate;
}

// gRPC would accept a pair that does not match and then refuse every handshake.
absl::Status CheckPair(const TlsFiles& files, const std::string& cert_pem,
                       const std::string& key_pem) {
  NIBBLE_ASSIGN_OR_RETURN(Certificate certificate,
                          ParseCertificate("--tls-cert", files.cert, cert_pem));
  // A null pass phrase callback would ask on the terminal.
  const auto no_phrase = [](char*, int, int, void*) { return 0; };
  Key key(PEM_read_bio_PrivateKey(Reader(key_pem).get(), nullptr, no_phrase, nullptr));
  if (key == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-key ", files.key,
                     " holds no unencrypted private key in PEM (-----BEGIN PRIVATE KEY-----)"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-key ", files.key, " is not the key of --tls-cert ", files.cert));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> LoadCredentials(const TlsFiles& files) {
  if (files.cert.empty() && files.key.empty() && files.client_ca.empty()) {
    return grpc::InsecureServerCredentials();
  }
  if (files.cert.empty() || files.key.empty()) {
    return absl::InvalidArgumentError(
        "--tls-cert and --tls-key need each other, and --tls-client-ca both");
  }
  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  NIBBLE_ASSIGN_OR_RETURN(std::string cert, ReadFile("--tls-cert", files.cert));
  NIBBLE_ASSIGN_OR_RETURN(std::string key, ReadFile("--tls-key", files.key));
  NIBBLE_RETURN_IF_ERROR(CheckPair(files, cert, key));
  options.pem_key_cert_pairs.push_back({.private_key = key, .cert_chain = cert});
  if (!files.client_ca.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile("--tls-client-ca", files.client_ca));
    NIBBLE_RETURN_IF_ERROR(
        ParseCertificate("--tls-client-ca", files.client_ca, options.pem_root_certs).status());
    options.client_certificate_request = GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  return grpc::SslServerCredentials(options);
}

}  // namespace nibble
