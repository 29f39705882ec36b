//! Calls a machine in clear as a page in a browser does: gRPC-web over HTTP/1.1, in messages that are written here by hand. A client that has
//! nothing in common with ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

/// What a machine answered.
#[derive(Debug)]
pub struct Reply {
    /// gRPC's number of it; 0 is OK.
    pub status: u32,
    /// What it says besides.
    pub message: String,
    body: Vec<u8>,
}

/// One unary call over a connection of its own, in a session where it is to belong to one. At most 10 s.
pub fn call(port: u16, path: &str, session: Option<&str>, message: &[u8]) -> Result<Reply, Failure> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len())?.to_be_bytes());
    framed.extend(message);
    let session = session.map_or(String::new(), |id| format!("viam-sid: {id}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: machine\r\nconnection: close\r\ncontent-type: application/grpc-web+proto\r\n{session}content-length: {}\r\n\r\n",
        framed.len()
    );
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    connection.write_all(head.as_bytes())?;
    connection.write_all(&framed)?;
    let mut body = Vec::new();
    connection.read_to_end(&mut body)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    // In the headers where there is nothing else to say, else in the last frame.
    let field = |name: &str| {
        let value = text.split_once(&format!("{name}:"))?.1;
        Some(value.lines().next()?.trim().to_owned())
    };
    let status = field("grpc-status").and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("{path}: no gRPC status in {text:?}"))?;
    Ok(Reply { status, message: field("grpc-message").unwrap_or_default(), body })
}

impl Reply {
    /// An error unless the call succeeded.
    pub fn ok(self) -> Result<Self, Failure> {
        if self.status == 0 {
            Ok(self)
        } else {
            Err(format!("the call failed: {} {}", self.status, self.message).into())
        }
    }

    /// Whether its message is exactly this.
    pub fn says(&self, message: &[u8]) -> bool {
        let framed = [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
        self.body.windows(framed.len()).any(|part| part == framed)
    }
}

/// Starts a session; its id.
pub fn start_session(port: u16) -> Result<String, Failure> {
    let reply = call(port, "/viam.robot.v1.RobotService/StartSession", None, &[])?.ok()?;
    // Field 1 of the reply is a text of 36 letters.
    let at = reply.body.windows(2).position(|two| two == [0x0a, 36]).ok_or("no session id in the reply")?;
    let id = reply.body.get(at + 2..at + 38).ok_or("half a session id in the reply")?;
    Ok(String::from_utf8(id.to_vec())?)
}

/// A beat.
pub fn beat(port: u16, session: &str) -> Result<Reply, Failure> {
    call(port, "/viam.robot.v1.RobotService/SendSessionHeartbeat", None, &field(1, session.as_bytes()))
}

/// A field of bytes, text or a message, of at most 127 bytes.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).ok().filter(|length| *length < 128).expect("written by hand, and short");
    [&[number << 3 | 2, length], bytes].concat()
}

/// Numbers, each a double, one after the other.
pub fn doubles(number: u8, values: &[f64]) -> Vec<u8> {
    field(number, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

/// One double.
pub fn double(number: u8, value: f64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}

/// One whole number, at most 127.
pub fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value & 0x7f]
}
