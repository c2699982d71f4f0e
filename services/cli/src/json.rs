//! The API's messages as JSON, and settings from JSON: the mapping of protobuf, with the names of the `.proto` files.

use std::sync::LazyLock;

use callbridge_proto::{
    access::v1 as access, call::v1 as call, campaign::v1 as campaign, directory::v1 as directory,
    privacy::v1 as privacy,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

use crate::{Failure, words::masked};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(callbridge_proto::DESCRIPTORS).expect("our own descriptors, which a test reads")
});

/// A message of the API that is shown or read as JSON.
pub(crate) trait Named: Message + Default {
    /// Its full name in the `.proto` files.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ty => $name:literal,)+) => {
        $(impl Named for $message {
            const NAME: &'static str = $name;
        })+

        /// All of them.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),+];
    };
}

named! {
    access::CreateKeyResponse => "callbridge.access.v1.CreateKeyResponse",
    access::Key => "callbridge.access.v1.Key",
    call::Call => "callbridge.call.v1.Call",
    call::CallEvent => "callbridge.call.v1.CallEvent",
    call::TransferCallResponse => "callbridge.call.v1.TransferCallResponse",
    campaign::AddContactsResponse => "callbridge.campaign.v1.AddContactsResponse",
    campaign::Campaign => "callbridge.campaign.v1.Campaign",
    campaign::CampaignSettings => "callbridge.campaign.v1.CampaignSettings",
    campaign::GetCampaignResponse => "callbridge.campaign.v1.GetCampaignResponse",
    campaign::Progress => "callbridge.campaign.v1.Progress",
    directory::Account => "callbridge.directory.v1.Account",
    directory::Agent => "callbridge.directory.v1.Agent",
    directory::DiagnoseResponse => "callbridge.directory.v1.DiagnoseResponse",
    directory::Phone => "callbridge.directory.v1.Phone",
    privacy::AuditEntry => "callbridge.privacy.v1.AuditEntry",
    privacy::EraseNumberResponse => "callbridge.privacy.v1.EraseNumberResponse",
    privacy::HoldCallResponse => "callbridge.privacy.v1.HoldCallResponse",
    privacy::HoldNumberResponse => "callbridge.privacy.v1.HoldNumberResponse",
    privacy::ReleaseCallResponse => "callbridge.privacy.v1.ReleaseCallResponse",
    privacy::ReleaseNumberResponse => "callbridge.privacy.v1.ReleaseNumberResponse",
}

fn descriptor(name: &str) -> MessageDescriptor {
    POOL.get_message_by_name(name)
        .expect("the name is in our own descriptors, which a test looks at")
}

/// A message with all its fields, so that a script finds every name, whatever the values.
pub(crate) fn shown<T: Named>(message: &T, full_numbers: bool) -> Value {
    let dynamic = DynamicMessage::decode(descriptor(T::NAME), message.encode_to_vec().as_slice())
        .expect("the same message by the same descriptor");
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    let mut value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("a protobuf message is a JSON value");
    if !full_numbers {
        hide(&mut value);
    }
    value
}

/// Masks people's numbers.
fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(text) if key == "customer_number" => *text = masked(text),
                    other => hide(other),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reads a message from JSON.
pub(crate) fn read<T: Named>(text: &str) -> Result<T, Failure> {
    let name = T::NAME;
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let wrong = |error: serde_json::Error| {
        Failure::Usage(format!(
            "cannot read the settings: {error}; they are JSON with the names of {name} in the .proto files"
        ))
    };
    let dynamic = DynamicMessage::deserialize_with_options(descriptor(name), &mut json, &options).map_err(wrong)?;
    json.end().map_err(wrong)?;
    T::decode(dynamic.encode_to_vec().as_slice())
        .map_err(|error| Failure::Usage(format!("cannot read the settings as {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use callbridge_proto::{
        call::v1::{Call, CallState},
        campaign::v1::CampaignSettings,
        directory::v1::Phone,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn all_names_are_the_apis() {
        for name in NAMES {
            assert_eq!(descriptor(name).full_name(), *name);
        }
    }

    #[test]
    fn a_message_has_all_its_names_and_no_whole_number() {
        let call = Call {
            id: "call_1".to_owned(),
            state: CallState::Busy.into(),
            customer_number: "+919812345678".to_owned(),
            phone_number: "+918040000155".to_owned(),
            version: 7,
            ..Call::default()
        };
        let value = shown(&call, false);
        assert_eq!(value["customer_number"], "+91******5678");
        assert_eq!(value["phone_number"], "+918040000155", "the company's own");
        assert_eq!(
            (&value["state"], &value["version"], &value["end_reason"]),
            (&json!("CALL_STATE_BUSY"), &json!(7), &json!(""))
        );
        assert_eq!(shown(&call, true)["customer_number"], "+919812345678");
        let phone = Phone {
            number: "+918040000155".to_owned(),
            ..Phone::default()
        };
        assert_eq!(shown(&phone, false)["number"], "+918040000155");
    }

    #[test]
    fn settings_are_read_by_their_names_and_others_refused() {
        let text = r#"{"name":"spring","ring_timeout":"20s","rules":{"max_attempts":3,"windows":[{"days":["WEEKDAY_MONDAY"],"from":540,"until":720}]}}"#;
        let settings: CampaignSettings = read(text).unwrap();
        assert_eq!(settings.name, "spring");
        assert_eq!(settings.ring_timeout.unwrap().seconds, 20);
        let rules = settings.rules.unwrap();
        assert_eq!((rules.max_attempts, rules.windows[0].until), (3, 720));
        let wrong = read::<CampaignSettings>(r#"{"nam":"x"}"#).unwrap_err();
        assert!(wrong.to_string().contains("nam"), "{wrong}");
    }
}
