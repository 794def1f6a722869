//! What the tests stand on.

pub(crate) mod aws;
pub(crate) mod function;
pub(crate) mod recorder;

pub(crate) use function::Function;
pub(crate) use recorder::Recorder;

use serde_json::Value;

/// The text between the first two marks.
pub(crate) fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text.find(begin).unwrap_or_else(|| panic!("no {begin} in {text}")) + begin.len();
    let length = text[from..].find(end).unwrap_or_else(|| panic!("no {end} after {begin} in {text}"));
    &text[from..from + length]
}

/// All texts between two marks.
pub(crate) fn all_between<'a>(text: &'a str, begin: &str, end: &str) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|part| part.split(end).next().unwrap_or_default()).collect()
}

/// Of a JSON object, a copy with one more member.
pub(crate) fn with(value: &Value, name: &str, member: impl Into<Value>) -> Value {
    let mut value = value.clone();
    value[name] = member.into();
    value
}
