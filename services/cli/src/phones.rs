//! ExoPhones.

use callbridge_proto::directory::v1::{
    CallbackEncoding, CallbackFields, DialMode, GetPhoneRequest, KeyCase, ListPhonesRequest, Phone, QueryHandling,
    Variants,
};

use crate::{Failure, accounts::cap, arguments::Directory, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: i32 = 200;

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Directory) -> Result<(), Failure> {
    match command {
        Directory::List => {
            let phones = all(client, "").await?;
            if out.json {
                for phone in &phones {
                    out.message(phone)?;
                }
                return Ok(());
            }
            let rows = phones.into_iter().map(|phone| {
                let mode = mode(&phone);
                [
                    phone.id,
                    phone.number,
                    phone.label,
                    mode,
                    phone.agent_id,
                    phone.account_id,
                ]
            });
            Ok(out.table(
                ["id", "number", "label", "dials by", "agent", "account"],
                rows.collect(),
            )?)
        }
        Directory::Show { id } => {
            let request = GetPhoneRequest { phone_id: id };
            let answer = client.phones().get_phone(request).await;
            let phone = answer
                .map_err(client.failed("show the phone"))?
                .into_inner()
                .phone
                .unwrap_or_default();
            if out.json {
                return Ok(out.message(&phone)?);
            }
            show(out, &phone)
        }
    }
}

fn mode(phone: &Phone) -> String {
    match phone.dial_mode() {
        DialMode::Unspecified | DialMode::Flow => "flow".to_owned(),
        DialMode::Stream => "stream".to_owned(),
    }
}

fn show(out: &mut Out<'_>, phone: &Phone) -> Result<(), Failure> {
    let credentials = if phone.has_credentials {
        "its own"
    } else {
        "its account's"
    };
    out.facts(&[
        ("id", phone.id.clone()),
        ("number", phone.number.clone()),
        ("label", phone.label.clone()),
        ("account", phone.account_id.clone()),
        ("credentials", credentials.to_owned()),
        ("dials by", mode(phone)),
        ("app id", phone.app_id.clone()),
        ("agent", phone.agent_id.clone()),
        ("cap", cap(phone.max_concurrent_calls)),
        ("transfers to", phone.transfer_numbers.join(" ")),
        ("records audio", phone.record_audio.to_string()),
        ("added", words::time(phone.created_at)),
    ])?;
    if let Some(variants) = &phone.variants {
        out.line("")?;
        show_variants(out, variants)?;
    }
    Ok(())
}

/// What a diagnosis saw of an account.
pub(crate) fn show_variants(out: &mut Out<'_>, variants: &Variants) -> Result<(), Failure> {
    let keys = match variants.key_case() {
        KeyCase::Unspecified => "",
        KeyCase::Snake => "snake_case",
        KeyCase::Camel => "camelCase",
    };
    let query = match variants.query() {
        QueryHandling::Unspecified => "",
        QueryHandling::Kept => "part of the WebSocket handshake",
        QueryHandling::Parameters => "taken off, told as custom parameters",
        QueryHandling::Dropped => "taken off, not told",
    };
    let encoding = words::plain(
        CallbackEncoding::as_str_name(&variants.callback_encoding()),
        "CALLBACK_ENCODING_",
    );
    let fields = words::plain(
        CallbackFields::as_str_name(&variants.callback_fields()),
        "CALLBACK_FIELDS_",
    );
    let or_none = |value: u32, unit: &str| {
        if value == 0 {
            String::new()
        } else {
            format!("{value} {unit}")
        }
    };
    let offset = variants.utc_offset_minutes.map(|minutes| {
        let sign = if minutes < 0 { '-' } else { '+' };
        format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
    });
    Ok(out.facts(&[
        ("seen at", words::time(variants.seen_at)),
        ("socket keys", keys.to_owned()),
        ("sample rate", or_none(variants.sample_rate, "Hz")),
        ("audio chunks", or_none(variants.chunk_bytes, "bytes")),
        ("socket query", query.to_owned()),
        ("callbacks", [encoding, fields].join(" ").trim().to_owned()),
        ("clock", offset.unwrap_or_default()),
    ])?)
}

/// All phones, or those of an account.
pub(crate) async fn all(client: &Client, account_id: &str) -> Result<Vec<Phone>, Failure> {
    let (mut phones, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListPhonesRequest {
            account_id: account_id.to_owned(),
            page_size: PAGE,
            page_token,
        };
        let answer = client.phones().list_phones(request).await;
        let page = answer.map_err(client.failed("list phones"))?.into_inner();
        phones.extend(page.phones);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(phones);
        }
    }
}
