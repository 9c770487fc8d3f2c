//! Requests for whole responses, with headers.

use reqwest::header::HeaderMap;

use super::{LIMIT, Tallycast, block_on};

/// A whole response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Gets `path` with `headers`.
pub(crate) fn get(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> Answer {
    block_on(async {
        let client = reqwest::Client::builder().timeout(LIMIT).redirect(reqwest::redirect::Policy::none());
        let client = client.pool_max_idle_per_host(0).build().unwrap();
        let request = client.get(tallycast.url(path));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    })
}
