//! From arguments to a connected robot.

use robot_client::{ConnectError, ConnectErrorKind, Robot, RobotBuilder};

use crate::arguments::ConnectionArguments;
use crate::failure::{Failure, Kind};

/// The builder that the arguments describe. One attempt: a person at a terminal tries again by themselves.
pub fn builder(common: &ConnectionArguments, address: &str) -> Result<RobotBuilder, Failure> {
    let mut builder = Robot::builder(address).initial_attempts(1).dial_timeout(common.dial_timeout);
    match (&common.api_key_id, &common.api_key) {
        (Some(id), Some(key)) => builder = builder.api_key(id, key),
        (None, None) => {}
        (Some(_), None) => return Err(Failure::usage("an api key id without a key; set VIAM_API_KEY as well")),
        (None, Some(_)) => return Err(Failure::usage("an api key without its id; set VIAM_API_KEY_ID as well")),
    }
    if let Some(file) = &common.ca_file {
        builder = builder.trust_ca(file);
    }
    if let Some(name) = &common.tls_name {
        builder = builder.tls_name(name);
    }
    if let Some(cloud) = &common.cloud {
        builder = builder.cloud(cloud);
    }
    Ok(builder.insecure(common.insecure))
}

/// Connects, or says why not.
pub async fn connect(common: &ConnectionArguments, address: &str) -> Result<Robot, Failure> {
    builder(common, address)?.connect().await.map_err(failure)
}

/// What a failed dial means to a script.
pub fn failure(error: ConnectError) -> Failure {
    let kind = match error.kind() {
        ConnectErrorKind::Usage => Kind::Usage,
        ConnectErrorKind::Unreachable => Kind::Unreachable,
        ConnectErrorKind::Refused => Kind::Refused,
        ConnectErrorKind::Failed => Kind::Failed,
    };
    Failure::new(kind, error)
}
