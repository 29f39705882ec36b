//! Components that fit nowhere else.

use machine_api::viam::component::generic::v1::generic_service_server::{GenericService, GenericServiceServer};

use super::{Resource, service};

/// A component that has its own commands only.
pub trait Generic: Resource {}

service! { Generic "generic" GenericService GenericServiceServer [geometries] }
