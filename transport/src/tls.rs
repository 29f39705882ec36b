//! Whom a client trusts and how a machine proves itself: rustls configurations, always with the same provider.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// PEM text without what is wanted in it.
    #[error("{what} is no PEM text with {wanted} in it")]
    Pem {
        /// Which text.
        what: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// rustls refuses the certificate or the key.
    #[error("cannot use the certificate or its key: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Configurations kept for the next who trusts the same: a process talks to machines of one owner or a few.
const KEPT: usize = 8;

/// Whom a client trusts: the system's roots and what was added. Loaded once, when first needed.
#[derive(Clone, Default)]
pub struct Trust {
    added: Vec<CertificateDer<'static>>,
    config: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust(system roots and {} more)", self.added.len())
    }
}

impl Trust {
    /// The system's roots; `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them, as everywhere.
    pub fn system() -> Self {
        Self::default()
    }

    /// Trusts the certificates of a PEM file as well.
    pub fn trust_ca(mut self, path: &Path) -> Result<Self, TlsError> {
        let pem = fs::read(path).map_err(|source| TlsError::Read { path: path.to_path_buf(), source })?;
        self.added.extend(certificates(&pem, &path.display().to_string())?);
        self.config = Arc::default();
        Ok(self)
    }

    /// Trusts the certificates of a PEM text as well.
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, TlsError> {
        self.added.extend(certificates(pem, "the given text")?);
        self.config = Arc::default();
        Ok(self)
    }

    /// The client's configuration: TLS 1.2 and 1.3, ALPN `h2`, tickets in memory only. Whoever in this process trusts the same certificates
    /// shares it, and with it sessions to resume (RFC 8446 section 2.2): a ticket is used for the name alone that was proven when it was given,
    /// and who cannot redeem it proves that name anew.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        static SHARED: Mutex<Vec<(Vec<CertificateDer<'static>>, Arc<ClientConfig>)>> = Mutex::new(Vec::new());
        if let Some(config) = self.config.get() {
            return Ok(config.clone());
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match shared.iter().find(|(added, _)| *added == self.added) {
            Some((_, config)) => config.clone(),
            None => {
                let config = self.build()?;
                if shared.len() == KEPT {
                    shared.remove(0);
                }
                shared.push((self.added.clone(), config.clone()));
                config
            }
        };
        Ok(self.config.get_or_init(|| config).clone())
    }

    fn build(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = Verifier { added: verifier(&self.added)?, system: OnceLock::new() };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Reads the system's roots on another thread where only they are trusted and they were not read yet: it takes milliseconds that a dial can
    /// use for something else. Needs a Tokio runtime.
    pub fn read_ahead(&self) {
        if self.added.is_empty() && ROOTS.get().is_none() {
            tokio::task::spawn_blocking(system_roots);
        }
    }
}

/// rustls' own verification, first by the roots that were added, then by the system's: those are read only where they are needed.
#[derive(Debug)]
struct Verifier {
    added: Option<Arc<WebPkiServerVerifier>>,
    system: OnceLock<Option<Arc<WebPkiServerVerifier>>>,
}

/// `None` for no roots at all.
fn verifier(roots: &[CertificateDer<'static>]) -> Result<Option<Arc<WebPkiServerVerifier>>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in roots {
        // A root that rustls cannot read proves nobody; the others still do.
        let _ = store.add(certificate.clone());
    }
    if store.is_empty() {
        return Ok(None);
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build();
    Ok(Some(built.map_err(|error| rustls::Error::General(error.to_string()))?))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        const UNKNOWN: rustls::Error = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let by = |verifier: &Option<Arc<WebPkiServerVerifier>>| match verifier {
            Some(verifier) => verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now),
            None => Err(UNKNOWN),
        };
        match by(&self.added) {
            // Another name or an expired certificate of a known issuer: the system's roots cannot know better.
            Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                by(self.system.get_or_init(|| verifier(system_roots()).ok().flatten()))
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A machine's configuration from a certificate chain and its key, both PEM: TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`.
pub fn server_config(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(chain, "the certificate chain")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| TlsError::Pem { what: "the key".into(), wanted: "a private key" })?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// One provider for both ends, named explicitly: a second one may be linked in by others.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();

/// Reading the system's roots takes milliseconds: once per process.
fn system_roots() -> &'static [CertificateDer<'static>] {
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some of the system's root certificates cannot be read");
        }
        found.certs
    })
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Pem { what: what.to_owned(), wanted: "certificates" };
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    if all.is_empty() { Err(wrong()) } else { Ok(all) }
}
