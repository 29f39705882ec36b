//! Names of what a machine has.

use std::fmt;
use std::sync::Arc;

/// A component: its type, such as `base`, and its name. Cheap to clone: every command takes its name through many hands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// The type, as the protocol spells it: `base`, `movement_sensor`.
    pub subtype: Arc<str>,
    /// The name that the machine's configuration gives it.
    pub name: Arc<str>,
}

impl ResourceName {
    /// A component of this machine.
    pub fn component(subtype: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { subtype: subtype.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rdk:component:{}/{}", self.subtype, self.name)
    }
}
