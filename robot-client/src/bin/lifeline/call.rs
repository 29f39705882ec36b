//! `lifeline call`: any unary method of any component, its request written as JSON.

use http::uri::PathAndQuery;
use machine_api::DESCRIPTORS;
use prost::Message as _;
use prost::bytes::Buf;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions, Value};
use robot_client::Robot;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};

use crate::arguments::ConnectionArguments;
use crate::connection;
use crate::failure::Failure;

pub async fn run(
    common: &ConnectionArguments,
    address: &str,
    component: &str,
    method: &str,
    request: &str,
    _json: bool,
) -> Result<(), Failure> {
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(Failure::failed)?;
    // What can be found wrong without the machine is found before anything is dialled.
    serde_json::from_str::<serde_json::Value>(request)
        .map_err(|e| Failure::usage(format!("the request is no JSON: {e}")))?;
    let robot = connection::connect(common, address).await?;
    let done = one_call(&robot, &pool, component, method, request).await;
    robot.close().await;
    // The answer is a message, and a message has one text: JSON, with or without --json.
    println!("{}", done?);
    Ok(())
}

async fn one_call(
    robot: &Robot,
    pool: &DescriptorPool,
    component: &str,
    method: &str,
    request: &str,
) -> Result<String, Failure> {
    let (subtype, name) = find_component(robot, component).await?;
    let method = find_method(pool, &subtype, method)?;
    let message = message(&method, &name, request)?;
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let path = PathAndQuery::try_from(path).map_err(Failure::failed)?;
    let mut grpc = tonic::client::Grpc::new(robot.channel());
    let answer = grpc.unary(Request::new(message), path, DynamicCodec { output: method.output() }).await?.into_inner();
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::pretty(&mut text);
    let options = SerializeOptions::new().skip_default_fields(false);
    answer.serialize_with_options(&mut serializer, &options).map_err(Failure::failed)?;
    String::from_utf8(text).map_err(Failure::failed)
}

/// The component's subtype and name. `type/name` says both; a bare name must be the only one of its kind.
pub async fn find_component(robot: &Robot, component: &str) -> Result<(String, String), Failure> {
    let known = robot.resource_names().await?;
    let (subtype, name) = match component.split_once('/') {
        Some((subtype, name)) => (Some(subtype), name),
        None => (None, component),
    };
    let mut fitting = known.iter().filter(|r| r.name == name && subtype.is_none_or(|s| s == r.subtype));
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok((one.subtype.clone(), one.name.clone())),
        (Some(one), Some(other)) => Err(Failure::usage(format!(
            "two components are called {name}: write {}/{name} or {}/{name}",
            one.subtype, other.subtype
        ))),
        (None, _) => {
            let all: Vec<_> = known.iter().map(|r| format!("{}/{}", r.subtype, r.name)).collect();
            Err(Failure::failed(format!("the machine has no component {component}; it has {}", all.join(", "))))
        }
    }
}

fn find_method(pool: &DescriptorPool, subtype: &str, method: &str) -> Result<MethodDescriptor, Failure> {
    let package = format!("viam.component.{}.v1", subtype.replace('_', ""));
    let service = pool
        .services()
        .find(|s| s.package_name() == package)
        .ok_or_else(|| Failure::failed(format!("this tool does not know components of type {subtype}")))?;
    let found = service.methods().find(|m| m.name() == method).ok_or_else(|| {
        let all: Vec<_> = service.methods().map(|m| m.name().to_owned()).collect();
        Failure::usage(format!("a {subtype} has no method {method}; it has {}", all.join(", ")))
    })?;
    if found.is_client_streaming() || found.is_server_streaming() {
        return Err(Failure::usage(format!("{method} is a stream; this tool makes unary calls")));
    }
    Ok(found)
}

fn message(method: &MethodDescriptor, name: &str, request: &str) -> Result<DynamicMessage, Failure> {
    let mut json = serde_json::Deserializer::from_str(request);
    let mut message = DynamicMessage::deserialize(method.input(), &mut json)
        .map_err(|e| Failure::usage(format!("{} does not fit: {e}", method.input().full_name())))?;
    message.set_field_by_name("name", Value::String(name.to_owned()));
    Ok(message)
}

/// Encodes and decodes messages that are known by their descriptor only.
struct DynamicCodec {
    output: MessageDescriptor,
}

struct DynamicEncoder;

struct DynamicDecoder(MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = DynamicDecoder;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> DynamicDecoder {
        DynamicDecoder(self.output.clone())
    }
}

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|e| Status::internal(e.to_string()))
    }
}

impl Decoder for DynamicDecoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        DynamicMessage::decode(self.0.clone(), bytes).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_json() {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("our own descriptors");
        let method = find_method(&pool, "movement_sensor", "GetPosition").expect("a known method");
        assert_eq!(method.input().full_name(), "viam.component.movementsensor.v1.GetPositionRequest");
        let method = find_method(&pool, "base", "MoveStraight").expect("a known method");
        let message = message(&method, "b", r#"{"distanceMm": "100", "mmPerSec": 50}"#).expect("a fitting request");
        assert_eq!(message.get_field_by_name("name").as_deref(), Some(&Value::String("b".into())));
        assert!(super::message(&method, "b", r#"{"distance": 1}"#).is_err());
        assert!(find_method(&pool, "base", "Fly").is_err());
        assert!(find_method(&pool, "arm", "MoveThroughJointPositionsStreamed").is_err());
    }
}
