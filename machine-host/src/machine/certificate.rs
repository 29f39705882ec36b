//! The port's certificate: from files, or of a local CA that is made at the first start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use discovery::MachineName;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use transport::tls::server_config;

use super::{MachineError, Tls};

/// What clients trust.
const CA: &str = "ca.pem";
/// What signs; nobody else may read it.
const CA_KEY: &str = "ca-key.pem";

pub(super) fn load(tls: &Tls, name: &MachineName) -> Result<Option<Arc<ServerConfig>>, MachineError> {
    match tls {
        Tls::None => Ok(None),
        Tls::Files(chain, key) => Ok(Some(server_config(&read(chain)?, &read(key)?)?)),
        Tls::Local(folder) => Ok(Some(local(folder, &name.forms())?)),
    }
}

/// A configuration with a certificate for `names`, this host and its addresses, issued by the CA in `folder` (`ca.pem` is what clients
/// trust), which is made where there is none. The first name is the certificate's own.
pub fn local(folder: &Path, names: &[String]) -> Result<Arc<ServerConfig>, MachineError> {
    let issuer = authority(folder)?;
    let (chain, key) = issue(&issuer, names)?;
    Ok(server_config(chain.as_bytes(), key.as_bytes())?)
}

fn read(path: &Path) -> Result<Vec<u8>, MachineError> {
    fs::read(path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> MachineError + use<> {
    let path = PathBuf::from(path);
    move |error| MachineError::File(path, error)
}

/// The folder's CA, made where there is none.
fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, MachineError> {
    let (ca, ca_key) = (folder.join(CA), folder.join(CA_KEY));
    if !(ca.exists() && ca_key.exists()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = called("Lifeline local CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        write(&ca_key, &key.serialize_pem(), 0o600).map_err(at(&ca_key))?;
        write(&ca, &certificate.pem(), 0o644).map_err(at(&ca))?;
    }
    let key = KeyPair::from_pem(&String::from_utf8_lossy(&read(&ca_key)?))?;
    Ok(Issuer::from_ca_cert_pem(&String::from_utf8_lossy(&read(&ca)?), key)?)
}

/// A certificate for everything that clients may dial: the names, this host, its addresses.
fn issue(issuer: &Issuer<'_, KeyPair>, names: &[String]) -> Result<(String, String), MachineError> {
    let own = names.first().cloned().unwrap_or_else(|| "localhost".to_owned());
    let mut names = names.to_vec();
    names.extend(["localhost".to_owned(), "localhost.localdomain".to_owned()]);
    let host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    if host.parse::<MachineName>().is_ok() {
        names.extend([format!("{host}.local"), host]);
    }
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs().unwrap_or_default().iter().map(|i| i.ip()).collect();
    addresses.extend(["127.0.0.1", "::1"].iter().filter_map(|a| a.parse::<IpAddr>().ok()));
    addresses.sort_unstable();
    addresses.dedup();
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    params.distinguished_name = called(&own);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// Writes a file whole: under another name first, so that a process that is killed leaves no half of one.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
