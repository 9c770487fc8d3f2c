//! Plain HTTP requests with headers.

use reqwest::header::HeaderMap;

use super::{LIMIT, Tallycast, block_on};

/// A complete response.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header, or an empty string without it.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a GET request for `path` with `headers`.
pub(crate) fn get(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> Response {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
        let client = client.pool_max_idle_per_host(0).build().unwrap();
        let request = client.get(tallycast.url(path));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Response { status, headers, body: response.bytes().await.unwrap().to_vec() }
    })
}
