//! EventBridge event patterns: the operators that the lab's rules use.
//!
//! Exact values, `prefix`, `suffix`, `exists`, `equals-ignore-case` and `anything-but` a value or a
//! list of values. Everything else (`numeric`, `wildcard`, `cidr`, `$or`, …) is refused when the
//! rule is put, because a rule that silently never matches is the worst kind of rule.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

const PATTERN_CHARS_MAX: usize = 2048;

/// A checked pattern.
pub(super) struct Pattern(Node);

enum Node {
    /// All of these fields must match.
    Fields(BTreeMap<String, Node>),
    /// One of these tests must hold.
    AnyOf(Vec<Test>),
}

enum Test {
    Equals(Value),
    EqualsIgnoreCase(String),
    Prefix(String),
    Suffix(String),
    AnythingBut(Vec<Value>),
    Exists(bool),
}

impl Pattern {
    /// Parses, or says why the pattern is refused.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.chars().count() > PATTERN_CHARS_MAX {
            return Err(format!("it is longer than {PATTERN_CHARS_MAX} characters"));
        }
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
        Ok(Self(fields_node(&fields)?))
    }

    pub(super) fn matches(&self, event: &Value) -> bool {
        self.0.matches(Some(event))
    }
}

fn fields_node(fields: &Map<String, Value>) -> Result<Node, String> {
    if fields.is_empty() {
        return Err("empty objects are not allowed".to_owned());
    }
    let node = |(name, value): (&String, &Value)| {
        let node = match value {
            _ if name.starts_with('$') => return Err(format!("the lab does not support {name}")),
            Value::Object(inner) => fields_node(inner)?,
            Value::Array(tests) if tests.is_empty() => {
                return Err("empty arrays are not allowed".to_owned());
            }
            Value::Array(tests) => Node::AnyOf(tests.iter().map(test).collect::<Result<_, _>>()?),
            _ => return Err(format!("\"{name}\" must be an object or an array")),
        };
        Ok((name.clone(), node))
    };
    Ok(Node::Fields(fields.iter().map(node).collect::<Result<_, _>>()?))
}

fn test(value: &Value) -> Result<Test, String> {
    let operator = match value {
        Value::Object(operator) => operator,
        Value::Array(_) => return Err("arrays in arrays are not allowed".to_owned()),
        scalar => return Ok(Test::Equals(scalar.clone())),
    };
    let mut entries = operator.iter();
    let (Some((name, argument)), None) = (entries.next(), entries.next()) else {
        return Err("only one key is allowed in a match expression".to_owned());
    };
    Ok(match (name.as_str(), argument) {
        ("prefix", Value::String(text)) => Test::Prefix(text.clone()),
        ("suffix", Value::String(text)) => Test::Suffix(text.clone()),
        ("equals-ignore-case", Value::String(text)) => Test::EqualsIgnoreCase(text.to_lowercase()),
        ("exists", Value::Bool(exists)) => Test::Exists(*exists),
        ("anything-but", Value::String(_) | Value::Number(_)) => Test::AnythingBut(vec![argument.clone()]),
        ("anything-but", Value::Array(values))
            if !values.is_empty() && values.iter().all(|v| v.is_string() || v.is_number()) =>
        {
            Test::AnythingBut(values.clone())
        }
        (other, argument) => {
            return Err(format!("the lab does not support the match {other}: {argument}"));
        }
    })
}

impl Node {
    /// `value` is none where the event has no such field.
    fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            // An array in the event matches if one of its elements does.
            (_, Some(Value::Array(elements))) if !elements.is_empty() => {
                elements.iter().any(|element| self.matches(Some(element)))
            }
            (Self::Fields(fields), value) => {
                let object = value.and_then(Value::as_object);
                let field = |name: &String| object.and_then(|object| object.get(name));
                fields.iter().all(|(name, node)| node.matches(field(name)))
            }
            // Tests look at leaves only; an object or an empty array is no leaf.
            (Self::AnyOf(tests), value) => {
                let leaf = value.filter(|value| !value.is_object() && !value.is_array());
                tests.iter().any(|test| test.holds(leaf))
            }
        }
    }
}

impl Test {
    fn holds(&self, leaf: Option<&Value>) -> bool {
        let Some(leaf) = leaf else {
            return matches!(self, Self::Exists(false));
        };
        let text = leaf.as_str();
        match self {
            Self::Equals(value) => same(value, leaf),
            Self::EqualsIgnoreCase(value) => text.is_some_and(|text| text.to_lowercase() == *value),
            Self::Prefix(prefix) => text.is_some_and(|text| text.starts_with(prefix)),
            Self::Suffix(suffix) => text.is_some_and(|text| text.ends_with(suffix)),
            Self::AnythingBut(values) => !values.iter().any(|value| same(value, leaf)),
            Self::Exists(exists) => *exists,
        }
    }
}

/// Numbers are compared by value: 300 and 300.0 are the same.
fn same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(pattern: Value, event: Value) -> bool {
        Pattern::parse(&pattern.to_string()).unwrap().matches(&event)
    }

    #[test]
    fn fields_are_and_values_are_or() {
        let pattern = json!({"source": ["aws.rds"], "detail": {"EventID": ["RDS-EVENT-0238", "RDS-EVENT-0239"]}});
        let event = |id: &str| json!({"source": "aws.rds", "detail": {"EventID": id, "other": 1}});
        assert!(matches(pattern.clone(), event("RDS-EVENT-0239")));
        assert!(!matches(pattern.clone(), event("RDS-EVENT-0069")));
        assert!(!matches(pattern.clone(), json!({"source": "aws.rds"})));
        assert!(!matches(pattern, json!({"source": "x", "detail": {"EventID": "RDS-EVENT-0238"}})));
    }

    #[test]
    fn operators_match_as_in_aws() {
        let rows = [
            (json!([1]), json!(1.0), true),
            (json!([1]), json!("1"), false),
            (json!([true, null]), json!(null), true),
            (json!([null]), json!(false), false),
            (json!([{"prefix": "us-"}]), json!("us-west-2"), true),
            (json!([{"prefix": "us-"}]), json!("eu-us-"), false),
            (json!([{"suffix": ".json"}]), json!("a.json"), true),
            (json!([{"equals-ignore-case": "Orders"}]), json!("ORDERS"), true),
            (json!([{"anything-but": "a"}]), json!("b"), true),
            (json!([{"anything-but": ["a", 2]}]), json!(2), false),
            (json!([{"exists": true}]), json!(0), true),
            (json!([{"exists": true}]), json!({"deep": 1}), false),
            (json!([{"exists": false}]), json!(0), false),
            (json!(["b"]), json!(["a", "b"]), true),
            (json!(["c"]), json!(["a", "b"]), false),
            (json!(["a"]), json!([]), false),
        ];
        for (tests, value, expected) in rows {
            let pattern = json!({ "field": tests });
            let event = json!({ "field": value });
            assert_eq!(matches(pattern.clone(), event.clone()), expected, "{pattern} {event}");
        }
    }

    #[test]
    fn absent_fields_match_only_exists_false_and_arrays_of_objects_match_by_element() {
        assert!(matches(json!({"a": {"b": [{"exists": false}]}}), json!({})));
        assert!(!matches(json!({"a": [{"anything-but": "x"}]}), json!({})));
        let pattern = json!({"a": {"b": [1], "c": [2]}});
        assert!(matches(pattern.clone(), json!({"a": [{"b": 0}, {"b": 1, "c": 2}]})));
        assert!(!matches(pattern, json!({"a": [{"b": 1}, {"c": 2}]})));
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for bad in [
            r#"{"a": [{"numeric": [">", 1]}]}"#,
            r#"{"a": [{"wildcard": "x*"}]}"#,
            r#"{"a": [{"anything-but": {"prefix": "x"}}]}"#,
            r#"{"$or": [{"a": [1]}]}"#,
            r#"{"a": "scalar"}"#,
            r#"{"a": []}"#,
            r#"{"a": {}}"#,
            r#"{"a": [[1]]}"#,
            "{}",
            "[]",
            "not json",
        ] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
