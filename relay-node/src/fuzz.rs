//! A body for fuzzers: any bytes at all, and what must hold for them. A panic is a finding.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt;

use relay_migration::testing::fuzz::libvirt_uri;

use crate::cli::{self, Early};
use crate::endpoint::Endpoint;
use crate::quantity;

/// What a command line is made of: endpoints, durations, amounts, rates, libvirt URIs; and a whole
/// command line, one argument a line. What is accepted is printed and read again without change; what is
/// not gets one line that says why.
///
/// # Panics
/// If something of that does not hold.
pub fn endpoint(data: &[u8]) {
    libvirt_uri(data);
    command_line(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(endpoint) = accepted(text, text.parse::<Endpoint>()) {
        let printed = endpoint.to_string();
        assert_eq!(printed.parse(), Ok(endpoint), "{text:?} was printed as {printed:?}");
    }
    if let Some(duration) = accepted(text, quantity::duration(text)) {
        let printed = quantity::display(duration);
        assert_eq!(quantity::duration(&printed), Ok(duration), "{text:?} was printed as {printed:?}");
        assert_eq!(quantity::duration_or_off(text), Ok(Some(duration)));
    }
    if let Some(bytes) = accepted(text, quantity::bytes(text)) {
        assert_eq!(quantity::bytes(&bytes.to_string()), Ok(bytes));
        let rate = accepted(text, quantity::rate(&format!("{text}/s")));
        assert_eq!(rate, Some(bytes).filter(|bytes| *bytes > 0), "a rate is an amount that is not zero");
    }
}

/// The value, or a line that does not leave its reader without a word.
fn accepted<T, E: Display>(text: &str, read: Result<T, E>) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            let line = error.to_string();
            // It quotes what was written, whatever that is.
            let tidy = text.chars().any(char::is_control) || !line.chars().any(char::is_control);
            assert!(!line.is_empty() && tidy, "{text:?}: {line:?}");
            None
        }
    }
}

fn command_line(data: &[u8]) {
    let arguments = data.split(|byte| *byte == b'\n').map(|argument| OsString::from_vec(argument.to_vec()));
    match cli::parse("relay", std::iter::once(OsString::from("relay")).chain(arguments)) {
        Ok(action) => assert!(!format!("{action:?}").is_empty()),
        Err(Early::Told(text)) => assert!(!text.trim().is_empty()),
        Err(Early::Misused(line)) => assert!(!line.is_empty() && !line.contains('\n'), "{line:?}"),
    }
}
