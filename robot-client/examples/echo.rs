//! Calls the published echo server, `proto.rpc.examples.echo.v1`, with every kind of call that it has: `echo ADDRESS`. Credentials and trust come
//! from VIAM_API_KEY_ID, VIAM_API_KEY and LIFELINE_CA_FILE. A second link is kept warm.
//!
//! Orders on standard input, one a line: `calls` makes each of them once, one after the other; `close` leaves. It prints JSON lines: what became of
//! each call, and which link they go over.

mod orders;

use std::env::{args, var, var_os};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dialer::agent::StandbyPolicy;
use futures_util::{Stream, stream};
use http::uri::PathAndQuery;
use robot_client::{Robot, RobotChannel, RouteEvent};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Every request and every answer of the service.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    message: String,
}

/// Longer than what passes before a reader that has gone is noticed: each letter comes back as a message of its own.
const LONG: usize = 1 << 20;
/// How long the call may take that the server never ends by itself.
const SHORT: Duration = Duration::from_millis(300);
/// How long a caller that has cancelled still holds what it could have told.
const HELD: Duration = Duration::from_secs(1);
/// No call of these takes as long; one that does hangs.
const LIMIT: Duration = Duration::from_secs(10);

/// What went wrong with a call.
type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let address = args().nth(1).ok_or("usage: echo ADDRESS")?;
    let mut builder = Robot::builder(&address).standby(StandbyPolicy::Always);
    if let (Ok(id), Ok(key)) = (var("VIAM_API_KEY_ID"), var("VIAM_API_KEY")) {
        builder = builder.api_key(id, key);
    }
    if let Some(file) = var_os("LIFELINE_CA_FILE") {
        builder = builder.trust_ca(file);
    }
    let started = Instant::now();
    let robot = match builder.connect().await {
        Ok(robot) => robot,
        Err(error) => {
            say(json!({ "failed": error.to_string(), "kind": format!("{:?}", error.kind()) }));
            return Err(error.into());
        }
    };
    tokio::spawn(watch(robot.clone()));
    say(json!({ "connected": robot.route(), "took_ms": started.elapsed().as_secs_f64() * 1e3 }));
    let mut orders = orders::listen();
    while let Some(order) = orders.recv().await {
        match &*order {
            "calls" => calls(&robot).await,
            "close" => break,
            other => say(json!({ "unknown": other })),
        }
    }
    robot.close().await;
    say(json!({ "closed": true }));
    Ok(())
}

fn say(mut line: Value) {
    line["t"] = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64()).into();
    let mut out = std::io::stdout().lock();
    // Whoever listened may have gone: then nobody is interested.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn watch(robot: Robot) {
    let mut routes = robot.route_events();
    drop(robot);
    while let Ok(event) = routes.recv().await {
        match event {
            RouteEvent::Use(link, _) => say(json!({ "route": "use", "of": { "route": link.route } })),
            RouteEvent::Standby { link } => {
                say(json!({ "route": "standby", "of": { "link": link.map(|link| format!("{link:?}")) } }));
            }
            _ => {}
        }
    }
}

/// Each kind of call, and each way that one can end.
async fn calls(robot: &Robot) {
    let echo = Echo(robot.channel());
    told(robot, "unary", echo.unary("a message")).await;
    told(robot, "large", echo.unary(&"0123456789abcdef".repeat(LONG / 16))).await;
    told(robot, "server_stream", echo.multiple()).await;
    told(robot, "bidi", echo.bidi()).await;
    told(robot, "deadline", echo.deadline()).await;
    told(robot, "bidi_cancelled", echo.bidi_cancelled()).await;
    told(robot, "server_stream_cancelled", echo.multiple_cancelled()).await;
    told(robot, "unknown", echo.unknown()).await;
    told(robot, "unary_again", echo.unary("still there")).await;
    say(json!({ "calls": "done" }));
}

/// Waits for a call and says what became of it, and over which link.
async fn told(robot: &Robot, kind: &str, call: impl Future<Output = Result<(), Failure>>) {
    let (before, started) = (robot.route(), Instant::now());
    let result = tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| Err("it hangs".into()));
    let took = started.elapsed().as_secs_f64() * 1e3;
    let error = result.err().map(|error| error.to_string());
    let over = if robot.route() == before { before } else { None };
    say(json!({ "call": kind, "took_ms": took, "ok": error.is_none(), "error": error, "over": over }));
}

/// A client of the service.
struct Echo(RobotChannel);

impl Echo {
    fn grpc(&self) -> tonic::client::Grpc<RobotChannel> {
        tonic::client::Grpc::new(self.0.clone())
    }

    async fn call(&self, path: &'static str, message: &str) -> Result<String, Status> {
        let request = Request::new(Text { message: message.to_owned() });
        let codec = ProstCodec::<Text, Text>::default();
        Ok(self.grpc().unary(request, PathAndQuery::from_static(path), codec).await?.into_inner().message)
    }

    async fn unary(&self, message: &str) -> Result<(), Failure> {
        same(&self.call("/proto.rpc.examples.echo.v1.EchoService/Echo", message).await?, message)
    }

    async fn unknown(&self) -> Result<(), Failure> {
        ends(self.call("/proto.rpc.examples.echo.v1.EchoService/Nothing", "").await, Code::Unimplemented)
    }

    /// A message's letters.
    async fn letters(&self, message: String) -> Result<Streaming<Text>, Status> {
        let path = PathAndQuery::from_static("/proto.rpc.examples.echo.v1.EchoService/EchoMultiple");
        let codec = ProstCodec::<Text, Text>::default();
        Ok(self.grpc().server_streaming(Request::new(Text { message }), path, codec).await?.into_inner())
    }

    async fn multiple(&self) -> Result<(), Failure> {
        let message = "one letter each ".repeat(64);
        let mut letters = self.letters(message.clone()).await?;
        take(&mut letters, &message).await?;
        over(&mut letters).await
    }

    async fn multiple_cancelled(&self) -> Result<(), Failure> {
        take(&mut self.letters("a".repeat(LONG)).await?, &"a".repeat(100)).await
    }

    /// Whatever is told, letter by letter, until there is no more to tell.
    async fn chat(
        &self,
        messages: impl Stream<Item = Text> + Send + 'static,
        timeout: Option<Duration>,
    ) -> Result<Streaming<Text>, Status> {
        let path = PathAndQuery::from_static("/proto.rpc.examples.echo.v1.EchoService/EchoBiDi");
        let mut request = Request::new(messages);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        Ok(self.grpc().streaming(request, path, ProstCodec::<Text, Text>::default()).await?.into_inner())
    }

    async fn bidi(&self) -> Result<(), Failure> {
        let (tell, messages) = spoken();
        tell_it(&tell, "first")?;
        let mut letters = self.chat(messages, None).await?;
        take(&mut letters, "first").await?;
        // Each is told only once the one before it has come back.
        for message in ["second", "third, the last"] {
            tell_it(&tell, message)?;
            take(&mut letters, message).await?;
        }
        drop(tell);
        over(&mut letters).await
    }

    /// The server waits for more, which never comes.
    async fn deadline(&self) -> Result<(), Failure> {
        let (tell, messages) = spoken();
        tell_it(&tell, "soon")?;
        let mut letters = self.chat(messages, Some(SHORT)).await?;
        take(&mut letters, "soon").await?;
        ends(letters.message().await, Code::DeadlineExceeded)
    }

    async fn bidi_cancelled(&self) -> Result<(), Failure> {
        let (tell, messages) = spoken();
        tell_it(&tell, "enough")?;
        // Whoever asks is there until it has gone: the server is not told that there is no more.
        let mut letters = self.chat(messages, None).await?;
        let taken = take(&mut letters, "enough").await;
        drop(letters);
        tokio::time::sleep(HELD).await;
        drop(tell);
        taken
    }
}

/// Messages that are told as the call goes on.
fn spoken() -> (mpsc::UnboundedSender<Text>, impl Stream<Item = Text> + Send + 'static) {
    let (tell, messages) = mpsc::unbounded_channel();
    let next = |mut messages: mpsc::UnboundedReceiver<Text>| async move { Some((messages.recv().await?, messages)) };
    (tell, stream::unfold(messages, next))
}

fn tell_it(tell: &mpsc::UnboundedSender<Text>, message: &str) -> Result<(), Failure> {
    Ok(tell.send(Text { message: message.to_owned() })?)
}

/// The next letters are those of `message`, one in each answer.
async fn take(letters: &mut Streaming<Text>, message: &str) -> Result<(), Failure> {
    for (index, letter) in message.chars().enumerate() {
        match letters.message().await? {
            Some(text) if text.message == letter.to_string() => {}
            other => return Err(format!("letter {index} is {letter:?} and came back as {other:?}").into()),
        }
    }
    Ok(())
}

/// There are no more.
async fn over(letters: &mut Streaming<Text>) -> Result<(), Failure> {
    match letters.message().await? {
        None => Ok(()),
        Some(more) => Err(format!("more came than was told: {more:?}").into()),
    }
}

fn same(got: &str, wanted: &str) -> Result<(), Failure> {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{} bytes came back as {} others", wanted.len(), got.len()).into())
}

/// The call ends with this code.
fn ends<T>(result: Result<T, Status>, code: Code) -> Result<(), Failure> {
    match result {
        Err(status) if status.code() == code => Ok(()),
        Err(status) => Err(format!("ends with {status} and not with {code:?}").into()),
        Ok(_) => Err(format!("is answered and does not end with {code:?}").into()),
    }
}
