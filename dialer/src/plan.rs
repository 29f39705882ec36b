//! What a call may do when its route dies or falls silent (design 9).

use std::time::Duration;

use machine_api::methods::{self, Class, Method};

/// The class of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialClass {
    /// Stops something.
    Stop,
    /// Moves something.
    Motion,
    /// Changes nothing.
    Read {
        /// Replies are large: never hedged.
        heavy: bool,
    },
    /// Everything else.
    Other,
}

/// How the channel treats one call: an extension of the http request. Without it the method's entry in
/// `machine_api::methods` decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallPlan {
    /// The class.
    pub class: DialClass,
    /// Whether a second copy does no harm: a unary read, or a call with an order number of a machine of ours.
    pub copyable: bool,
    /// Carries an order number: kept whole up to 4 MiB, so that it can go again on a new route.
    pub numbered: bool,
    /// Carries a session, so that what it moves is watched. Motion without one ties its link (`routes.md` 3).
    pub held: bool,
    /// Whether the reply is one message, and may be held back until it is complete.
    pub unary_reply: bool,
    /// Longest wait for a link; `None`: the call's deadline, else the default per-call timeout. Motion waits only during
    /// a swap, for this long or not at all.
    pub wait: Option<Duration>,
    /// Fail at once where there is no link.
    pub fail_fast: bool,
}

impl CallPlan {
    /// The plan of a method of the protocol that carries no order number.
    pub fn of(method: &Method) -> Self {
        let class = match method.class {
            Class::Stop => DialClass::Stop,
            Class::Motion => DialClass::Motion,
            Class::Read => DialClass::Read { heavy: method.heavy },
            Class::Other => DialClass::Other,
        };
        let unary = !method.request_stream && !method.response_stream;
        Self {
            class,
            copyable: unary && matches!(class, DialClass::Read { .. }),
            numbered: false,
            held: false,
            unary_reply: !method.response_stream,
            wait: None,
            fail_fast: false,
        }
    }

    /// The plan of a path: unknown methods run at most once.
    pub fn of_path(path: &str) -> Self {
        methods::find(path).map_or(
            Self {
                class: DialClass::Other,
                copyable: false,
                numbered: false,
                held: false,
                unary_reply: false,
                wait: None,
                fail_fast: false,
            },
            Self::of,
        )
    }

    /// Whether copies may go to the standby while the primary is suspect.
    pub fn hedged(&self) -> bool {
        self.copyable && self.unary_reply && self.class != DialClass::Read { heavy: true }
    }

    /// How much of the request is kept for a copy, bytes: 64 KiB, for a numbered call 4 MiB (routes.md 5).
    pub(crate) fn keep(&self) -> usize {
        if self.numbered { 4 << 20 } else { 64 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_decides_where_nobody_else_does() {
        for (path, class, copyable, hedged) in [
            ("/viam.component.base.v1.BaseService/Stop", DialClass::Stop, false, false),
            ("/viam.component.base.v1.BaseService/SetVelocity", DialClass::Motion, false, false),
            ("/viam.component.motor.v1.MotorService/GetPosition", DialClass::Read { heavy: false }, true, true),
            ("/viam.component.camera.v1.CameraService/GetImages", DialClass::Read { heavy: true }, true, false),
            ("/viam.component.motor.v1.MotorService/DoCommand", DialClass::Other, false, false),
            ("/acme.v1.Service/Unknown", DialClass::Other, false, false),
        ] {
            let plan = CallPlan::of_path(path);
            assert_eq!((plan.class, plan.copyable, plan.hedged()), (class, copyable, hedged), "{path}");
        }
    }

    #[test]
    fn streams_are_never_copied() {
        for method in methods::all().iter().filter(|method| method.request_stream || method.response_stream) {
            assert!(!CallPlan::of(method).copyable, "{}", method.path);
        }
    }
}
