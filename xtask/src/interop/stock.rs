//! The published machine server, unmodified, booted as a machine boots that has lost the internet: from what it kept of its cloud's answers. Only so
//! does it announce itself beyond its own host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::Outcome;
use crate::lab::Host;
use crate::observer::now;
use crate::processes::{Built, KEY, KEY_ID, Running};

/// What it is called.
pub const NAME: &str = "stock-main.loc1.viam.cloud";
const LOCAL_NAME: &str = "stock-main.loc1.local.viam.cloud";
/// Its part's id at a cloud that nobody can reach.
const PART: &str = "lifeline-interop";
/// It boots in 2 s here, and asks networks that are not there before that.
const BOOT: Duration = Duration::from_secs(30);

/// A running one: a base on two wheels, whose motors tell whether they turn.
pub struct Stock {
    process: Running,
    host: Host,
    folder: PathBuf,
}

impl Stock {
    /// Boots it on `host`, which has its LAN's address already, and waits until it serves.
    pub fn start(program: &Path, host: &Host, folder: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        Self::start_as(LOCAL_NAME, program, host, folder)
    }

    /// With another name for its local network. By that name and its port it can be asked for signaling.
    pub fn start_as(
        local: &str,
        program: &Path,
        host: &Host,
        folder: &Path,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        fs::create_dir_all(folder.join("home/.viam"))?;
        let cloud = json!({ "id": PART, "secret": "of nobody", "app_address": "https://127.0.0.1:9" });
        fs::write(folder.join("config.json"), serde_json::to_vec(&json!({ "cloud": cloud }))?)?;
        let kept = folder.join(format!("home/.viam/cached_cloud_config_{PART}.json"));
        fs::write(kept, serde_json::to_vec(&known(cloud, local, folder)?)?)?;
        let log = File::create(folder.join("machine.log"))?;
        let mut command = Command::new(program);
        command.arg("-config").arg(folder.join("config.json")).env("HOME", folder.join("home"));
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = host.start("the published machine server", &mut command)?;
        let stock = Self { process, host: host.clone(), folder: folder.to_path_buf() };
        let until = Instant::now() + BOOT;
        while !stock.log().contains("\tserving\t") {
            if Instant::now() > until {
                return Err(format!("it does not serve within {BOOT:?}:\n{}", stock.log()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(stock)
    }

    /// Stops all of its threads where they are, or lets them go on.
    pub fn stand_still(&self, still: bool) -> Outcome {
        self.process.signal(if still { Signal::STOP } else { Signal::CONT })
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("machine.log")).unwrap_or_default()
    }

    /// A program of ours with what it needs to be let in.
    pub fn client(&self, built: &Built, program: &str) -> Command {
        let mut command = built.command(program);
        command
            .env("VIAM_API_KEY_ID", KEY_ID)
            .env("VIAM_API_KEY", KEY)
            .env("LIFELINE_CA_FILE", self.folder.join("ca.pem"))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_STATE_HOME", self.folder.join("client-state"));
        command
    }

    /// Whether a wheel turns, asked on its own host by an address, so that nothing that is done to the network matters.
    pub fn turns(&self, built: &Built) -> Result<bool, Box<dyn std::error::Error>> {
        let mut command = self.client(built, "lifeline");
        command.args(["--json", "--tls-name", NAME, "call", "127.0.0.1:8080", "left", "IsPowered"]);
        let output = self.host.output(&mut command)?;
        if !output.status.success() {
            return Err(format!("it cannot be asked: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        Ok(answer["isOn"].as_bool().unwrap_or_default())
    }

    /// Waits until no wheel turns; when that was, in Unix time.
    pub fn rests(&self, built: &Built, bound: Duration) -> Result<f64, Box<dyn std::error::Error>> {
        let until = Instant::now() + bound;
        while self.turns(built)? {
            if Instant::now() > until {
                return Err(format!("its wheels still turn after {bound:?}").into());
            }
        }
        Ok(now())
    }

    /// Fails where its wheels do not turn.
    pub fn is_moving(&self, built: &Built) -> Outcome {
        if self.turns(built)? { Ok(()) } else { Err("its wheels do not turn".into()) }
    }
}

/// What it kept of its cloud's answers. Leaves the certificate to trust in `folder`.
fn known(mut cloud: Value, local: &str, folder: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    let (chain, key, ca) = certificate(&[NAME, local])?;
    fs::write(folder.join("ca.pem"), ca)?;
    let more = json!({
        "location_secret": "of nobody", "location_secrets": [{ "id": "1", "secret": "of nobody" }], "location_id": "loc1",
        "primary_org_id": "lifeline", "machine_id": "stock", "fqdn": NAME, "local_fqdn": local,
        "signaling_address": "127.0.0.1:9", "tls_certificate": chain, "tls_private_key": key,
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        cloud[name] = value.clone();
    }
    let part = |name: &str, kind: &str, model: &str, attributes: Value, needs: Value| json!({ "name": name, "api": format!("rdk:component:{kind}"), "model": format!("rdk:builtin:{model}"), "attributes": attributes, "depends_on": needs });
    let motor = |name| part(name, "motor", "fake", json!({ "max_rpm": 200, "ticks_per_rotation": 100 }), json!([]));
    let wheels = json!({ "left": ["left"], "right": ["right"], "width_mm": 300, "wheel_circumference_mm": 300 });
    Ok(json!({
        "cloud": cloud,
        "components": [motor("left"), motor("right"), part("base", "base", "wheeled", wheels, json!(["left", "right"]))],
        "auth": { "handlers": [{ "type": "api-key", "config": { "keys": [KEY_ID], KEY_ID: KEY } }] },
    }))
}

/// A chain for these names, its key, and the certificate at the chain's end.
pub fn certificate(names: &[&str]) -> Result<(String, String, String), Box<dyn std::error::Error>> {
    let named = |name: &str| {
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        distinguished
    };
    let mut authority = CertificateParams::default();
    authority.distinguished_name = named("interop");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    leaf.distinguished_name = named(names.first().copied().unwrap_or_default());
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&key, &authority)?;
    Ok((format!("{}{}", leaf.pem(), authority.pem()), key.serialize_pem(), authority.pem()))
}
