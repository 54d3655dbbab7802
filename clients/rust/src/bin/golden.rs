//! Plays transcripts: ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…; see ../golden/README.md.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use holdgate_gateway::{Arguments, DESCRIPTORS};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args());
    let [address, run, transcripts @ ..] = arguments.words.as_slice() else {
        return Err("usage: golden ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…".into());
    };
    let pool = DescriptorPool::decode(DESCRIPTORS)?;
    let channel = arguments.tls.connect(address)?;
    let (mut passed, mut failed) = (0, 0);
    for path in transcripts {
        let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
        let steps: Vec<Value> = serde_norway::from_str(&std::fs::read_to_string(path)?.replace("<run>", run))?;
        for (index, step) in steps.iter().enumerate() {
            let found = play(&pool, &channel, step).await?;
            println!("{}", json!({"transcript": name, "step": index + 1, "answer": found}));
            let kind = if step["answer"].is_null() { "error" } else { "answer" };
            let mut differences = Vec::new();
            differing(&step[kind], &found[kind], &format!("{name}: step {}.{kind}", index + 1), &mut differences);
            differences.iter().for_each(|difference| eprintln!("{difference}"));
            if differences.is_empty() { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes one call; its outcome as JSON, {"answer": …} or {"error": …}.
async fn play(pool: &DescriptorPool, channel: &Channel, step: &Value) -> Result<Value, Box<dyn Error>> {
    let call = step["call"].as_str().unwrap_or_default();
    let method = method(pool, call).ok_or_else(|| format!("there is no method {call}"))?;
    let message = DynamicMessage::deserialize(method.input(), &step["request"])?;
    let mut request = Request::new(message.encode_to_vec());
    request.set_timeout(TIMEOUT);
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let path = PathAndQuery::try_from(format!("/{call}"))?;
    Ok(match client.unary(request, path, bytes::Bytes).await {
        Ok(answer) => json!({"answer": DynamicMessage::decode(method.output(), answer.into_inner().as_slice())?}),
        Err(status) => json!({"error": failure(&status)}),
    })
}

fn method(pool: &DescriptorPool, call: &str) -> Option<MethodDescriptor> {
    let (service, name) = call.split_once('/')?;
    pool.get_service_by_name(service)?.methods().find(|method| method.name() == name)
}

fn failure(status: &Status) -> Value {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| &info.reason);
    let fields: Vec<&str> =
        details.bad_request().iter().flat_map(|bad| &bad.field_violations).map(|bad| bad.field.as_str()).collect();
    json!({"code": upper(status.code()), "reason": reason, "fields": fields, "says": status.message()})
}

/// Writes InvalidArgument as INVALID_ARGUMENT.
fn upper(code: Code) -> String {
    let camel = format!("{code:?}");
    let mut name = String::new();
    for (index, letter) in camel.char_indices() {
        if index > 0 && letter.is_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Where an answer is not what was expected, one line each.
fn differing(expected: &Value, found: &Value, at: &str, lines: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (name, value) in expected {
                differing(value, found.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"), lines);
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (value, found)) in expected.iter().zip(found).enumerate() {
                differing(value, found, &format!("{at}[{index}]"), lines);
            }
        }
        _ => {
            let (want, got) = (text(expected), text(found));
            let same_number = matches!((want.parse::<f64>(), got.parse::<f64>()), (Ok(a), Ok(b)) if a == b);
            if want != got && !same_number && !(at.ends_with(".says") && got.contains(&want)) {
                lines.push(format!("{at}: expected {want}, found {got}"));
            }
        }
    }
}

/// A value as JSON writes it; a text is itself.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Messages that travel as the bytes that they are.
mod bytes {
    use prost::bytes::{Buf, BufMut};
    use tonic::Status;
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

    #[derive(Clone, Copy)]
    pub struct Bytes;

    impl Codec for Bytes {
        type Encode = Vec<u8>;
        type Decode = Vec<u8>;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            *self
        }

        fn decoder(&mut self) -> Self {
            *self
        }
    }

    impl Encoder for Bytes {
        type Item = Vec<u8>;
        type Error = Status;

        fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put_slice(&item);
            Ok(())
        }
    }

    impl Decoder for Bytes {
        type Item = Vec<u8>;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
            let mut item = vec![0; buffer.remaining()];
            buffer.copy_to_slice(&mut item);
            Ok(Some(item))
        }
    }
}
