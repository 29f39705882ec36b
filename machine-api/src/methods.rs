//! What is known of every RPC: how it may be repeated, and whether it moves something.

include!("../generated/methods.rs");

/// What a call may do when its route dies (`methods.toml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Stops something: right of way everywhere, may be sent again and on every route.
    Stop,
    /// Moves something: tied to the caller's session, never repeated by itself.
    Motion,
    /// Changes nothing: may be hedged and retried.
    Read,
    /// Everything else: at most once. Unknown methods are of this class.
    Other,
}

/// One RPC of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The gRPC path, `/package.Service/Method`.
    pub path: &'static str,
    /// What the call may do when its route dies.
    pub class: Class,
    /// Whether the method carries the option `safety_heartbeat_monitored`.
    pub monitored: bool,
    /// Whether replies are large (images, point clouds, meshes): never hedged.
    pub heavy: bool,
    /// Whether the client streams.
    pub request_stream: bool,
    /// Whether the server streams.
    pub response_stream: bool,
}

impl Method {
    /// The service's full name, `package.Service`.
    pub fn service(&self) -> &'static str {
        self.path[1..].split('/').next().unwrap_or_default()
    }

    /// The method's own name.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The method of a gRPC path, or `None` where the protocol has none of that path.
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.binary_search_by(|m| m.path.cmp(path)).ok().map(|at| &METHODS[at])
}

/// Every method of the protocol, sorted by path.
pub fn all() -> &'static [Method] {
    &METHODS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_found_and_nothing_else() {
        for method in all() {
            assert_eq!(find(method.path), Some(method));
            assert_eq!(method.path, format!("/{}/{}", method.service(), method.name()));
        }
        for unknown in ["", "/", "/a.B/C", "viam.robot.v1.RobotService/StopAll"] {
            assert_eq!(find(unknown), None);
        }
    }

    #[test]
    fn nineteen_methods_of_real_components_are_monitored() {
        let monitored: Vec<_> = all().iter().filter(|m| m.monitored).collect();
        assert_eq!(monitored.len(), 19);
        assert!(monitored.iter().all(|m| m.class == Class::Motion));
    }

    #[test]
    fn classes_are_those_of_the_table() {
        for (path, class, heavy) in [
            ("/viam.component.base.v1.BaseService/Stop", Class::Stop, false),
            ("/viam.robot.v1.RobotService/StopAll", Class::Stop, false),
            ("/viam.component.motor.v1.MotorService/GoFor", Class::Motion, false),
            ("/viam.component.gantry.v1.GantryService/Home", Class::Other, false),
            ("/viam.component.camera.v1.CameraService/GetImages", Class::Read, true),
            ("/viam.robot.v1.RobotService/GetVersion", Class::Read, false),
            ("/viam.robot.v1.RobotService/StartSession", Class::Other, false),
        ] {
            let method = find(path).expect(path);
            assert_eq!((method.class, method.heavy), (class, heavy), "{path}");
        }
    }
}
