//! The configuration file of existing machines, as far as this machine uses it. Fields that it does not know are left alone, so that a
//! file written for an existing machine is taken as it is.

pub mod duration;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{CloudAccount, CloudIdentity, Policy, ResourceName, SafetyOptions};

/// The window where none is configured.
const DEFAULT_WINDOW: Duration = Duration::from_secs(2);
/// Where machines listen that are not told otherwise: this host only.
const DEFAULT_BIND: &str = "localhost:8080";

/// A machine's configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What it has, in the file's order.
    pub components: Vec<ComponentConfig>,
    /// `host:port` that it listens on. Default `localhost:8080`.
    pub bind_address: String,
    /// Its name, `<machine>.<location>.viam.cloud`.
    pub fqdn: Option<String>,
    /// The window of sessions. Default 2 s.
    pub window: Duration,
    /// Sessions at once. Default 1,024. (`network.sessions.max_sessions`, a field of this machine's own.)
    pub max_sessions: usize,
    /// What callers without a session may do. Default `guard`. (`network.sessions.without_session`, a field of this machine's own.)
    pub policy: Policy,
    /// Machines whose components this one offers as its own, where the program connects to them.
    pub remotes: Vec<RemoteConfig>,
    /// The certificate chain and its key, both PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Without TLS.
    pub no_tls: bool,
    /// The cloud that it registers with; `ca_file` is not in the file.
    pub cloud: Option<CloudAccount>,
    /// API keys by id; nobody is asked for one where there are none.
    pub api_keys: BTreeMap<String, String>,
}

/// One component.
#[derive(Clone, Debug, PartialEq)]
pub struct ComponentConfig {
    /// Its name and type.
    pub name: ResourceName,
    /// Its model, such as `fake` or `rdk:builtin:fake`.
    pub model: String,
    /// What its driver is told.
    pub attributes: Map<String, Value>,
    /// Names of components that it needs.
    pub depends_on: Vec<String>,
}

/// A machine that this one is a client of.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// What its components are called by here: `<name>:<component>`.
    pub name: String,
    /// Where it is: a machine's name, `host:port` or an IP address.
    pub address: String,
    /// The id and the key that it wants to see.
    pub api_key: Option<(String, String)>,
    /// Without TLS.
    pub insecure: bool,
}

impl std::fmt::Debug for RemoteConfig {
    /// Without its key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteConfig({:?} at {:?})", self.name, self.address)
    }
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// It is no JSON, or has something of the wrong type.
    #[error("{0}: {1}")]
    Json(String, serde_json::Error),
    /// A field has a value that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// Its path in the file.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    cloud: Cloud,
    components: Vec<FileComponent>,
    remotes: Vec<FileRemote>,
    network: Network,
    auth: Auth,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cloud {
    id: String,
    secret: String,
    app_address: String,
    api_key: ApiKey,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ApiKey {
    id: String,
    key: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FileComponent {
    name: String,
    api: String,
    r#type: String,
    model: String,
    attributes: Option<Map<String, Value>>,
    depends_on: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FileRemote {
    name: String,
    address: String,
    auth: RemoteAuth,
    insecure: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RemoteAuth {
    entity: String,
    credentials: Option<RemoteCredentials>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RemoteCredentials {
    r#type: String,
    payload: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Network {
    bind_address: String,
    fqdn: String,
    sessions: Sessions,
    tls_cert_file: String,
    tls_key_file: String,
    no_tls: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Sessions {
    heartbeat_window: String,
    max_sessions: Option<usize>,
    without_session: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    handlers: Vec<Handler>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Handler {
    r#type: String,
    config: Map<String, Value>,
}

impl Default for Config {
    /// An empty machine on `localhost:8080`.
    fn default() -> Self {
        Self {
            components: Vec::new(),
            bind_address: DEFAULT_BIND.to_owned(),
            fqdn: None,
            window: DEFAULT_WINDOW,
            max_sessions: SafetyOptions::default().max_sessions,
            policy: Policy::default(),
            remotes: Vec::new(),
            tls: None,
            no_tls: false,
            cloud: None,
            api_keys: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(path.to_path_buf(), e))?;
        let mut config = Self::parse(&text)?;
        // Paths in the file are relative to it.
        let folder = path.parent().unwrap_or(Path::new("."));
        config.tls = config.tls.map(|(chain, key)| (folder.join(chain), folder.join(key)));
        Ok(config)
    }

    /// Takes a file's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let file: File = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| ConfigError::Json(e.path().to_string(), e.into_inner()))?;
        let network = file.network;
        let or_default = |text: String| if text.is_empty() { DEFAULT_BIND.to_owned() } else { text };
        Ok(Self {
            components: components(file.components)?,
            bind_address: or_default(network.bind_address),
            fqdn: Some(network.fqdn).filter(|name| !name.is_empty()),
            window: window(&network.sessions.heartbeat_window)?,
            max_sessions: max_sessions(network.sessions.max_sessions)?,
            policy: policy(&network.sessions.without_session)?,
            remotes: remotes(file.remotes)?,
            tls: tls(network.tls_cert_file, network.tls_key_file)?,
            no_tls: network.no_tls,
            cloud: cloud(file.cloud)?,
            api_keys: api_keys(file.auth.handlers)?,
        })
    }
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: field.into(), problem: problem.into() }
}

fn window(text: &str) -> Result<Duration, ConfigError> {
    let field = "network.sessions.heartbeat_window";
    if text.is_empty() {
        return Ok(DEFAULT_WINDOW);
    }
    let window = duration::parse(text).map_err(|problem| wrong(field, problem))?;
    if window.is_zero() {
        return Ok(DEFAULT_WINDOW);
    }
    duration::window(text).map_err(|problem| wrong(field, problem))
}

fn max_sessions(configured: Option<usize>) -> Result<usize, ConfigError> {
    match configured {
        None => Ok(SafetyOptions::default().max_sessions),
        Some(0) => Err(wrong("network.sessions.max_sessions", "must be 1 at least: nobody could drive")),
        Some(max) => Ok(max),
    }
}

fn policy(text: &str) -> Result<Policy, ConfigError> {
    match text {
        "" | "guard" => Ok(Policy::Guard),
        "allow" => Ok(Policy::Allow),
        "refuse" => Ok(Policy::Refuse),
        _ => {
            let problem = format!("{text:?} is no policy; use \"guard\", \"allow\" or \"refuse\"");
            Err(wrong("network.sessions.without_session", problem))
        }
    }
}

fn remotes(rows: Vec<FileRemote>) -> Result<Vec<RemoteConfig>, ConfigError> {
    let mut all: Vec<RemoteConfig> = Vec::new();
    for (at, row) in rows.into_iter().enumerate() {
        let field = format!("remotes[{at}]");
        if row.name.is_empty() || row.name.len() > 60 || !row.name.bytes().all(is_name_byte) {
            return Err(wrong(format!("{field}.name"), format!("{:?}: {NAMES}", row.name)));
        }
        if all.iter().any(|remote| remote.name == row.name) {
            return Err(wrong(format!("{field}.name"), format!("{} is there twice", row.name)));
        }
        if row.address.is_empty() {
            return Err(wrong(format!("{field}.address"), "is missing: a machine's name, host:port or an IP address"));
        }
        let api_key = match row.auth.credentials {
            None => None,
            Some(RemoteCredentials { r#type, payload }) if r#type == "api-key" && !payload.is_empty() => {
                Some((row.auth.entity, payload))
            }
            Some(other) => {
                let problem = format!("type {:?} with a payload is expected; {:?} is there", "api-key", other.r#type);
                return Err(wrong(format!("{field}.auth.credentials"), problem));
            }
        };
        all.push(RemoteConfig { name: row.name, address: row.address, api_key, insecure: row.insecure });
    }
    Ok(all)
}

fn tls(chain: String, key: String) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (chain.is_empty(), key.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some((chain.into(), key.into()))),
        (false, true) => Err(wrong("network.tls_key_file", "is missing beside tls_cert_file")),
        (true, false) => Err(wrong("network.tls_cert_file", "is missing beside tls_key_file")),
    }
}

/// A machine without an address of its cloud registers with none: there is no default, ours is not everybody's.
fn cloud(cloud: Cloud) -> Result<Option<CloudAccount>, ConfigError> {
    let Cloud { id, secret, app_address, api_key } = cloud;
    if app_address.is_empty() {
        return Ok(None);
    }
    // As existing machines do, a key rather than the part's secret where there are both.
    let (identity, id, secret) = match (api_key.id.is_empty(), api_key.key.is_empty()) {
        (true, true) if id.is_empty() => return Err(wrong("cloud.id", "is missing beside app_address")),
        (true, true) if secret.is_empty() => return Err(wrong("cloud.secret", "is missing beside app_address")),
        (true, true) => (CloudIdentity::Part, id, secret),
        (false, false) => (CloudIdentity::ApiKey, api_key.id, api_key.key),
        (true, false) => return Err(wrong("cloud.api_key.id", "is missing beside the key")),
        (false, true) => return Err(wrong("cloud.api_key.key", "is missing beside its id")),
    };
    Ok(Some(CloudAccount { url: app_address, identity, id, secret, ca_file: None }))
}

fn api_keys(handlers: Vec<Handler>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut keys = BTreeMap::new();
    for (at, handler) in handlers.into_iter().enumerate() {
        let field = format!("auth.handlers[{at}]");
        if handler.r#type != "api-key" {
            let problem = format!("{:?} is not supported; use \"api-key\"", handler.r#type);
            return Err(wrong(format!("{field}.type"), problem));
        }
        // Existing files list their ids under `keys` too; that is no id.
        for (id, key) in handler.config.into_iter().filter(|(id, _)| id != "keys") {
            match key {
                Value::String(key) if !key.is_empty() && !id.is_empty() => keys.insert(id, key),
                _ => return Err(wrong(format!("{field}.config"), "expected \"<key id>\": \"<key>\"")),
            };
        }
        if keys.is_empty() {
            return Err(wrong(format!("{field}.config"), "has no key: nobody could log in"));
        }
    }
    Ok(keys)
}

fn components(rows: Vec<FileComponent>) -> Result<Vec<ComponentConfig>, ConfigError> {
    let mut all: Vec<ComponentConfig> = Vec::new();
    for (at, row) in rows.into_iter().enumerate() {
        let field = format!("components[{at}]");
        if row.name.is_empty() || row.name.len() > 60 || !row.name.bytes().all(is_name_byte) {
            return Err(wrong(format!("{field}.name"), format!("{:?}: {NAMES}", row.name)));
        }
        let subtype = row.api.rsplit(':').next().filter(|s| !s.is_empty()).unwrap_or(&row.r#type);
        if subtype.is_empty() {
            return Err(wrong(format!("{field}.api"), "is missing; for example \"rdk:component:base\""));
        }
        let name = ResourceName::component(subtype, row.name);
        if all.iter().any(|c| c.name == name) {
            return Err(wrong(format!("{field}.name"), format!("{name} is there twice")));
        }
        let attributes = row.attributes.unwrap_or_default();
        all.push(ComponentConfig { name, model: row.model, attributes, depends_on: row.depends_on });
    }
    Ok(all)
}

const NAMES: &str = "a name is 1 to 60 letters, digits, dashes and underscores";

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn the_format_of_existing_machines_is_taken() {
        let config = Config::parse(
            r#"{
            "components": [
                {"name": "base", "api": "rdk:component:base", "model": "rdk:builtin:fake", "attributes": {"width_mm": 300}},
                {"name": "imu", "type": "movement_sensor", "namespace": "rdk", "model": "fake", "depends_on": ["base"]}
            ],
            "services": [{"name": "x", "type": "motion"}],
            "network": {"bind_address": ":8081", "fqdn": "m.loc.viam.cloud", "sessions": {"heartbeat_window": "1m"}},
            "auth": {"handlers": [{"type": "api-key", "config": {"id": "key", "keys": ["id"]}}]},
            "cloud": {"id": "whatever"}
        }"#,
        )
        .expect("a good file");
        assert_eq!(config.components[0].name, ResourceName::component("base", "base"));
        assert_eq!(config.components[0].attributes["width_mm"], 300);
        assert_eq!(&*config.components[1].name.subtype, "movement_sensor");
        assert_eq!((config.bind_address.as_str(), config.window), (":8081", Duration::from_secs(60)));
        assert_eq!(config.api_keys, BTreeMap::from([("id".to_owned(), "key".to_owned())]));
        assert_eq!(Config::parse("{}").expect("empty"), Config::default());
    }

    fn window(text: &str) -> Result<Duration, String> {
        let file = serde_json::json!({ "network": { "sessions": { "heartbeat_window": text } } });
        Config::parse(&file.to_string()).map(|c| c.window).map_err(|e| e.to_string())
    }

    #[test]
    fn s02_a_window_is_what_is_said_or_two_seconds() {
        for (text, millis) in [("5s", 5000), ("", 2000), ("0s", 2000)] {
            assert_eq!(window(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(Config::parse("{}").map(|c| c.window).ok(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn s03_windows_out_of_bounds_are_refused() {
        for (text, millis) in [("30ms", 30), ("1m", 60_000)] {
            assert_eq!(window(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["29ms", "61s", "1h", "-2s"] {
            let bounds = "network.sessions.heartbeat_window: heartbeat_window must be between [30ms, 1m]";
            assert_eq!(window(text), Err(bounds.to_owned()), "{text}");
        }
        assert!(window("soon").expect_err("no duration").contains("network.sessions.heartbeat_window"));
    }

    #[test]
    fn sessions_and_remotes_are_configured() {
        let config = Config::parse(
            r#"{
            "network": {"sessions": {"max_sessions": 7, "without_session": "refuse"}},
            "remotes": [
                {"name": "r1", "address": "r1-main.loc1.viam.cloud", "frame": {"parent": "world"},
                 "auth": {"entity": "id", "credentials": {"type": "api-key", "payload": "secret"}}},
                {"name": "r2", "address": "localhost:8081", "insecure": true}
            ]}"#,
        )
        .expect("a good file");
        assert_eq!((config.max_sessions, config.policy), (7, Policy::Refuse));
        assert_eq!(config.remotes[0].api_key, Some(("id".to_owned(), "secret".to_owned())));
        assert!(!format!("{config:?}").contains("secret"));
        assert_eq!((config.remotes[1].address.as_str(), config.remotes[1].insecure), ("localhost:8081", true));
    }

    #[test]
    fn a_machine_registers_by_a_key_rather_than_by_its_secret() {
        let account = |text: &str| {
            let cloud = Config::parse(text).expect("well-formed").cloud.expect("a cloud");
            (cloud.identity, cloud.id, cloud.secret)
        };
        let part = r#"{"cloud": {"app_address": "https://a", "id": "p", "secret": "s"}}"#;
        assert_eq!(account(part), (CloudIdentity::Part, "p".into(), "s".into()));
        let both =
            r#"{"cloud": {"app_address": "https://a", "id": "p", "secret": "s", "api_key": {"id": "i", "key": "k"}}}"#;
        assert_eq!(account(both), (CloudIdentity::ApiKey, "i".into(), "k".into()));
    }

    #[test]
    fn errors_name_their_field() {
        for (text, field) in [
            (r#"{"components": [{"name": "a b", "type": "base"}]}"#, "components[0].name"),
            (r#"{"components": [{"name": "a"}]}"#, "components[0].api"),
            (r#"{"components": [{"name": "a", "type": "base"}, {"name": "a", "type": "base"}]}"#, "components[1].name"),
            (r#"{"components": [{"name": 7}]}"#, "components[0].name"),
            (r#"{"cloud": {"app_address": "https://a", "id": "p"}}"#, "cloud.secret"),
            (r#"{"cloud": {"app_address": "https://a", "api_key": {"id": "k"}}}"#, "cloud.api_key.key"),
            (r#"{"cloud": {"app_address": "https://a", "api_key": {"key": "k"}}}"#, "cloud.api_key.id"),
            (r#"{"network": {"tls_cert_file": "c.pem"}}"#, "network.tls_key_file"),
            (r#"{"network": {"no_tls": "yes"}}"#, "network.no_tls"),
            (r#"{"network": {"sessions": {"max_sessions": 0}}}"#, "network.sessions.max_sessions"),
            (r#"{"network": {"sessions": {"without_session": "perhaps"}}}"#, "network.sessions.without_session"),
            (r#"{"remotes": [{"address": "a"}]}"#, "remotes[0].name"),
            (r#"{"remotes": [{"name": "r"}]}"#, "remotes[0].address"),
            (
                r#"{"remotes": [{"name": "r", "address": "a", "auth": {"credentials": {"type": "secret"}}}]}"#,
                "remotes[0].auth.credentials",
            ),
            (r#"{"auth": {"handlers": [{"type": "oauth"}]}}"#, "auth.handlers[0].type"),
            (r#"{"auth": {"handlers": [{"type": "api-key", "config": {}}]}}"#, "auth.handlers[0].config"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(field), "{text}: {error}");
        }
        assert!(refused("{").contains("EOF"));
    }
}
