//! F127: hostile text in every string of every request. What is asked is always answered as a mistake of the caller's, and what is
//! stored comes back as it was sent.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, BufMut, Bytes};
use callbridge_proto::{
    DESCRIPTORS,
    call::v1::{
        GetCallRequest, PlaceCallRequest, WaitFor, call_service_client::CallServiceClient, place_call_request::From,
    },
    directory::v1 as api,
};
use http::{Uri, uri::PathAndQuery};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::service::{ADMIN, Bearer, PATIENCE, Service, hash};

const SCOPES: &str = "calls.write+calls.read+campaigns.write+credentials.write+keys.write+ingest+media";
/// Messages within messages, of which some hold themselves.
const DEEPEST: usize = 4;

/// Texts that others have been got with: SQL, formats, templates, paths, lines, NUL, what turns text around, what is no UTF-8, length.
fn hostile() -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = [
        "'; DROP TABLE calls; --",
        "\" OR 1=1 --",
        "\\'; SELECT pg_sleep(9); --",
        "$$; $1 %1$s",
        "%s%s%s%n%x",
        "${jndi:ldap://127.0.0.1/a} {{7*7}} #{1+1} {0}",
        "../../../../etc/passwd",
        "<script>alert(1)</script>&amp;",
        "a\r\nSet-Cookie: x\r\n\r\nb",
        "a\0b",
        "\0",
        "\u{202e}gnp.exe\u{2066}\u{200f}",
        "e\u{301}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{feff}\u{fffd}",
        "Ⅷ٣१２",
        "-1",
        "99999999999999999999999999",
        "1e309",
        "null",
        "{\"a\":",
        "{\"a\":\"\\u0000\"}",
        "{\"a\":\"\\ud800\"}",
        "[[[[[[[[[[[[[[[[",
        "call_",
        "call_00000000000000000000000000000000",
        "key_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        " \t\u{a0}\u{3000}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    texts.extend([
        vec![0xff, 0xfe, 0xfd],
        // A lone surrogate, an overlong slash, what begins and does not go on.
        vec![0xed, 0xa0, 0x80],
        vec![0xc0, 0xaf],
        vec![b'a', 0xf0, 0x9f],
        vec![b'a'; 129],
        vec![b'9'; 4 * 1024],
        "é".repeat(8 * 1024).into_bytes(),
        vec![b'a'; 60 * 1024],
        vec![b'a'; 64 * 1024],
        vec![b'['; 16 * 1024],
    ]);
    texts
}

/// A field with its length before it (protobuf's wire type 2).
fn sized(number: i32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::try_from(number).unwrap() << 3 | 2, &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend(bytes);
    field
}

fn varint(number: i32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::try_from(number).unwrap() << 3, &mut field);
    prost::encoding::encode_varint(value, &mut field);
    field
}

struct Types(HashMap<String, DescriptorProto>);

impl Types {
    fn read(set: &FileDescriptorSet) -> Self {
        fn add(types: &mut HashMap<String, DescriptorProto>, within: &str, message: &DescriptorProto) {
            let name = format!("{within}.{}", message.name());
            for nested in &message.nested_type {
                add(types, &name, nested);
            }
            types.insert(name, message.clone());
        }
        let mut types = HashMap::new();
        for file in &set.file {
            for message in &file.message_type {
                add(&mut types, &format!(".{}", file.package()), message);
            }
        }
        Self(types)
    }

    /// The way to each string of a message: its name, and the fields that lead there, each with the message that has it.
    fn strings(&self, message: &str, deep: usize) -> Vec<(String, Vec<(i32, String)>)> {
        let Some(of) = self.0.get(message).filter(|_| deep < DEEPEST) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for field in &of.field {
            let step = (field.number(), message.to_owned());
            match field.r#type() {
                Type::String | Type::Bytes => found.push((field.name().to_owned(), vec![step])),
                Type::Message => {
                    for (name, mut path) in self.strings(field.type_name(), deep + 1) {
                        path.insert(0, step.clone());
                        found.push((format!("{}.{name}", field.name()), path));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// A request that goes as far as can be told from the names of its fields; what comes after it counts instead.
    fn plausible(&self, message: &str, known: &BTreeMap<&str, String>, deep: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in self.0.get(message).into_iter().flat_map(|of| &of.field) {
            let text = known.get(field.name());
            match (field.r#type(), text) {
                (Type::String, Some(text)) => {
                    bytes.extend(sized(field.number(), text.as_bytes()));
                }
                (Type::Message, _) if field.label() != Label::Repeated && deep < 2 && field.oneof_index.is_none() => {
                    let within = self.plausible(field.type_name(), known, deep + 1);
                    if !within.is_empty() {
                        bytes.extend(sized(field.number(), &within));
                    }
                }
                (Type::Enum, _) => bytes.extend(varint(field.number(), 1)),
                _ => {}
            }
        }
        bytes
    }
}

#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        message.advance(message.remaining());
        Ok(Some(()))
    }
}

async fn ask(service: &Service, path: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = Grpc::with_origin(service.channel.clone(), Uri::from_static("http://x"));
    grpc.ready().await.unwrap();
    let mut request = tonic::Request::new(Bytes::from(message));
    let value = format!("Bearer {ADMIN}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    let asked = grpc.unary(request, PathAndQuery::try_from(path).unwrap(), Raw);
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    answer.unwrap_or_else(|_| panic!("{path} is not answered")).map(drop)
}

/// A service with an account at an Exotel that is not there, an agent, a phone, and a call that waits.
async fn start() -> (Service, BTreeMap<&'static str, String>) {
    let api_keys = format!("admin:{SCOPES}:{}", hash(ADMIN));
    let service = Service::start(&[("API_KEYS", &api_keys)]).await;
    let request = api::CreateAccountRequest {
        name: "Acme".to_owned(),
        sid: "acme1".to_owned(),
        subdomain: "http://127.0.0.1:1".to_owned(),
        credentials: Some(api::ExotelCredentials {
            api_key: "k".to_owned(),
            api_token: "t".to_owned(),
        }),
        app_id: "7".to_owned(),
        ..Default::default()
    };
    let [account_id, agent_id, phone_id] = service.register(request, "08060000522").await;
    let call = place(&service, &phone_id, "first", BTreeMap::new()).await;
    let known = [
        ("account_id", account_id),
        ("agent_id", agent_id),
        ("phone_id", phone_id),
        ("call_id", call),
        ("idempotency_key", "hostile".to_owned()),
        ("key", "hostile".to_owned()),
        ("name", "hostile".to_owned()),
        ("sid", "acme2".to_owned()),
        ("to", "+919812345678".to_owned()),
        ("number", "+919812345678".to_owned()),
        ("reason", "hostile".to_owned()),
        ("json", "{}".to_owned()),
        ("config", "{}".to_owned()),
        ("api_key", "k".to_owned()),
        ("api_token", "t".to_owned()),
        ("endpoints", "http://127.0.0.1:1".to_owned()),
        ("scopes", "calls.read".to_owned()),
        ("paths", "name".to_owned()),
    ];
    (service, known.into())
}

#[tokio::test]
async fn every_string_takes_anything() {
    let (service, mut known) = start().await;
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let types = Types::read(&set);
    let texts = hostile();
    let (mut fields, mut asked, mut taken) = (0, 0, 0);
    let mut faults = Vec::new();
    for file in set.file.iter().filter(|file| file.package() != "callbridge.agent.v1") {
        for of in &file.service {
            for method in of
                .method
                .iter()
                .filter(|method| !method.client_streaming() && !method.server_streaming())
            {
                let path = format!("/{}.{}/{}", file.package(), of.name(), method.name());
                for (name, way) in types.strings(method.input_type(), 0) {
                    fields += 1;
                    for text in &texts {
                        // A repeat is answered before the rest of it is looked at.
                        known.insert("idempotency_key", format!("hostile {asked}"));
                        // An entry of a list or a map is as plausible as the rest, or another field of it is refused first.
                        let request = way.iter().rev().fold(text.clone(), |within, (number, message)| {
                            [types.plausible(message, &known, 0), sized(*number, &within)].concat()
                        });
                        let answer = ask(&service, &path, request).await;
                        asked += 1;
                        let Err(status) = answer else {
                            taken += 1;
                            continue;
                        };
                        let ours = matches!(
                            status.code(),
                            Code::Internal | Code::Unknown | Code::DataLoss | Code::Cancelled | Code::Unavailable
                        );
                        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
                        if ours || status.message().len() > 4 * 1024 {
                            faults.push(format!("{path} {name} {shown:?}: {:?} {}", status.code(), text.len()));
                        }
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
    assert!(fields > 100 && taken > 0, "{fields} fields, {taken} of {asked} taken");
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

#[tokio::test]
async fn what_is_stored_comes_back_as_it_was() {
    let (service, known) = start().await;
    let texts = hostile().into_iter().filter_map(|text| String::from_utf8(text).ok());
    let mut stored = 0;
    for (at, text) in texts.enumerate() {
        if text.contains('\0') || text.chars().count() > 1024 {
            continue;
        }
        stored += 1;
        // Of metadata one that is a key too.
        let key: String = text.chars().take(64).collect();
        let metadata: BTreeMap<String, String> = [(key, text.clone()), (format!("n{at}"), text.clone())].into();
        let id = place(&service, &known["phone_id"], &format!("key {at}"), metadata.clone()).await;
        let mut calls = CallServiceClient::with_interceptor(service.channel.clone(), Bearer(Some(ADMIN)));
        let call = calls
            .get_call(GetCallRequest { call_id: id })
            .await
            .unwrap()
            .into_inner()
            .call
            .unwrap();
        assert_eq!(
            call.metadata.into_iter().collect::<BTreeMap<_, _>>(),
            metadata,
            "{text:?}"
        );

        let config = json(&text);
        let request = api::CreateAgentRequest {
            name: format!("a{at}"),
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            config: config.clone(),
            greeting: Some(api::Greeting {
                text: format!("x{text}x"),
                ..Default::default()
            }),
            ..Default::default()
        };
        match service.agents().create_agent(request).await {
            Ok(made) => {
                let made = made.into_inner().agent.unwrap();
                assert_eq!(made.config, config, "{text:?}");
                assert_eq!(made.greeting.unwrap().text, format!("x{text}x"));
            }
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{text:?}: {status:?}"),
        }
    }
    assert!(stored > 20, "{stored}");
    service.stop().await;
}

/// A JSON document with this text in it.
fn json(text: &str) -> String {
    let escaped: Vec<String> = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("{{\"text\": \"{}\"}}", escaped.concat())
}

/// Places a call that waits for an hour.
async fn place(service: &Service, phone: &str, key: &str, metadata: BTreeMap<String, String>) -> String {
    let seconds = runtime::Clock::system().now().timestamp() + 3_600;
    let request = PlaceCallRequest {
        idempotency_key: key.to_owned(),
        to: "+919812345678".to_owned(),
        from: Some(From::PhoneId(phone.to_owned())),
        not_before: Some(prost_types::Timestamp { seconds, nanos: 0 }),
        metadata: metadata.into_iter().collect(),
        wait_for: WaitFor::Queued.into(),
        ..Default::default()
    };
    let mut calls = CallServiceClient::with_interceptor(service.channel.clone(), Bearer(Some(ADMIN)));
    calls.place_call(request).await.unwrap().into_inner().call.unwrap().id
}
