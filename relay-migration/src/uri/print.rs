//! A URI as text, in its one form.

use std::fmt;

use super::escape::{Place, escape};
use super::{Parts, Uri};
use crate::host::Host;

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { driver, transport, username, host, port, path, parameters } = self.parts();
        f.write_str(driver)?;
        if let Some(transport) = transport {
            write!(f, "+{transport}")?;
        }
        f.write_str("://")?;
        if let Some(username) = username {
            write!(f, "{}@", escape(username, Place::User))?;
        }
        match host {
            // brackets and the zone's %25: RFC 3986 section 3.2.2, RFC 6874
            Some(Host::V6(address, None)) => write!(f, "[{address}]")?,
            Some(Host::V6(address, Some(zone))) => write!(f, "[{address}%25{}]", escape(zone, Place::Zone))?,
            Some(host @ (Host::V4(_) | Host::Name(_))) => write!(f, "{host}")?,
            None => {}
        }
        if let Some(port) = port {
            write!(f, ":{port}")?;
        }
        f.write_str(&escape(path, Place::Path))?;
        for (index, parameter) in parameters.iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            let (name, value) =
                (escape(parameter.name(), Place::Query), escape(&parameter.value(), Place::Query));
            write!(f, "{mark}{name}={value}")?;
        }
        Ok(())
    }
}
