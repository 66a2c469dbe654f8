//! Adds Content-MD5 to what goes up to S3: a bucket under Object Lock takes no object without a checksum.
//!
//! Real S3 also accepts the `x-amz-checksum-sha256` that object_store sends; some of its likes look for Content-MD5 alone. The
//! header needs no signature. To be removed once object_store can send it.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use md5::{Digest as _, Md5};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// Connects as object_store does by itself, and adds the header to every PUT.
#[derive(Debug, Default)]
pub(super) struct WithContentMd5(ReqwestConnector);

impl HttpConnector for WithContentMd5 {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.method().as_str() != "PUT" {
            return self.0.execute(request).await;
        }
        let (mut parts, body) = request.into_parts();
        // One piece in all our PUTs, so nothing is copied.
        let body = body.collect().await?.to_bytes();
        if let Ok(value) = STANDARD.encode(Md5::digest(&body)).parse() {
            parts.headers.insert("content-md5", value);
        }
        self.0.execute(HttpRequest::from_parts(parts, body.into())).await
    }
}
