//! Cameras.

use std::time::SystemTime;

use machine_api::viam::common::v1::ResponseMetadata;
use machine_api::viam::component::camera::v1::camera_service_server::{CameraService, CameraServiceServer};
use machine_api::viam::component::camera::v1::{
    GetImagesRequest, GetImagesResponse, GetPointCloudRequest, GetPointCloudResponse, GetPropertiesRequest,
    GetPropertiesResponse, Image as WireImage, IntrinsicParameters,
};
use prost_types::Struct;

use super::{Resource, service};
use crate::DriverError;

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Which of the camera's sources made it, such as `color` or `depth`.
    pub source: String,
    /// Its format, such as `image/png`.
    pub mime_type: String,
    /// The picture itself, in that format.
    pub data: Vec<u8>,
}

/// What a camera can do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CameraProperties {
    /// Whether it makes point clouds.
    pub point_clouds: bool,
    /// The formats of its pictures.
    pub mime_types: Vec<String>,
    /// Its lens, where it is known.
    pub intrinsics: Option<IntrinsicParameters>,
}

/// A driver of a camera.
#[tonic::async_trait]
pub trait Camera: Resource {
    /// One picture of each source, or of those asked for, and when they were taken.
    async fn images(
        &self,
        sources: Vec<String>,
        extra: Option<&Struct>,
    ) -> Result<(Vec<Image>, SystemTime), DriverError>;
    /// What it sees in three dimensions: a format and its bytes.
    async fn point_cloud(&self, mime_type: &str, extra: Option<&Struct>) -> Result<(String, Vec<u8>), DriverError> {
        let _ = (mime_type, extra);
        Err(DriverError::Unsupported("point clouds"))
    }
    /// What it can do.
    async fn properties(&self) -> Result<CameraProperties, DriverError>;
}

service! { Camera "camera" CameraService CameraServiceServer [geometries]
    get_images(camera, r: GetImagesRequest) -> GetImagesResponse {
        let (images, taken) = camera.images(r.filter_source_names, r.extra.as_ref()).await?;
        let wire = |i: Image| WireImage { source_name: i.source, image: i.data, mime_type: i.mime_type };
        GetImagesResponse {
            images: images.into_iter().map(wire).collect(),
            response_metadata: Some(ResponseMetadata { captured_at: Some(taken.into()) }),
        }
    }
    get_point_cloud(camera, r: GetPointCloudRequest) -> GetPointCloudResponse {
        let (mime_type, cloud) = camera.point_cloud(&r.mime_type, r.extra.as_ref()).await?;
        GetPointCloudResponse { mime_type, point_cloud: cloud }
    }
    get_properties(camera, r: GetPropertiesRequest) -> GetPropertiesResponse {
        let properties = camera.properties().await?;
        GetPropertiesResponse {
            supports_pcd: properties.point_clouds,
            mime_types: properties.mime_types,
            intrinsic_parameters: properties.intrinsics,
            ..Default::default()
        }
    }
}
