//! What the tests of objects share.

use serde_json::{Value, json};

/// As the API server merges (RFC 7386).
pub(crate) fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            into.as_object_mut().expect("object").remove(field);
        } else {
            merge(&mut into[field], value);
        }
    }
}
