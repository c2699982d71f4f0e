//! XML answers as the tree that the same answer would be in JSON. Exotel answers XML wherever `.json` is forgotten, and
//! now and then where it is not.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;
use serde_json::{Map, Value};

/// Deepest nesting: `TwilioResponse/Calls/Call/Details/Legs/Leg/Id` has seven levels.
const MAX_DEPTH: usize = 12;

#[derive(Default)]
struct Element {
    children: Map<String, Value>,
    text: String,
}

impl Element {
    fn value(self) -> Value {
        if !self.children.is_empty() {
            return Value::Object(self.children);
        }
        match self.text.trim() {
            "" => Value::Null,
            text => Value::from(text),
        }
    }

    fn add(&mut self, name: String, value: Value) {
        match self.children.get_mut(&name) {
            None => {
                self.children.insert(name, value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
}

/// Reads a document: elements become members, repeated ones an array, empty ones null; attributes are dropped.
/// Document types are refused, and with them entities of their own.
pub(super) fn tree(text: &str) -> Option<Value> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<(String, Element)> = Vec::new();
    let mut root = Element::default();
    loop {
        let event = reader.read_event().ok()?;
        let depth = open.len();
        let current = open.last_mut().map_or(&mut root, |(_, element)| element);
        match event {
            Event::Start(start) if depth < MAX_DEPTH => {
                open.push((start.local_name().as_ref().to_owned(), Element::default()));
            }
            Event::Start(_) | Event::DocType(_) => return None,
            Event::Empty(empty) => current.add(empty.local_name().as_ref().to_owned(), Value::Null),
            Event::End(_) => {
                let (name, element) = open.pop()?;
                let parent = open.last_mut().map_or(&mut root, |(_, element)| element);
                parent.add(name, element.value());
            }
            Event::Text(text) => current.text.push_str(&text.xml10_content()),
            Event::CData(text) => current.text.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => match reference.resolve_char_ref().ok()? {
                Some(c) => current.text.push(c),
                None => current.text.push_str(resolve_xml_entity(&reference)?),
            },
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
    }
    open.is_empty().then(|| root.value()).filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn documents() {
        let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<TwilioResponse>\n <Call><Sid>a8p</Sid><ParentCallSid/>\
            <To></To><Name>a &amp; b &#38; <![CDATA[<c>]]></Name></Call>\n <X>1</X><X>2</X><X>3</X></TwilioResponse>";
        let want = json!({"TwilioResponse": {
            "Call": {"Sid": "a8p", "ParentCallSid": null, "To": null, "Name": "a & b & <c>"}, "X": ["1", "2", "3"]}});
        assert_eq!(tree(text), Some(want));
    }

    #[test]
    fn what_is_not_a_document() {
        for text in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a>&unknown;</a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            &"<a>".repeat(10_000),
        ] {
            assert_eq!(tree(text), None, "{}", text.get(..40).unwrap_or(text));
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[<>/a-c &;#!\\[\\]\"=?x-]{0,120}") {
            let _ = tree(&text);
        }
    }
}
