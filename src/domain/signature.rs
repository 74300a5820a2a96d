//! The JS-SDK signature.

use std::fmt::Write;

use sha1::{Digest, Sha1};

use super::secret::TokenValue;

/// Signs a page for the JS-SDK: lower-case hexadecimal SHA-1 over the raw values, as WeChat's JS-SDK appendix 1 defines it.
///
/// `url` is signed as it stands, up to its `#`: it is never parsed, because a parser would add the `/` that the page's own address may
/// not have. `timestamp` is in Unix seconds.
pub fn sign_jsapi(ticket: &TokenValue, nonce: &str, timestamp: i64, url: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(b"jsapi_ticket=");
    hash.update(ticket.expose());
    hash.update(b"&noncestr=");
    hash.update(nonce);
    hash.update(format!("&timestamp={timestamp}&url="));
    hash.update(signed_part(url));
    hash.finalize().iter().fold(String::with_capacity(40), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The part of a page's address that is signed: everything before the first `#`.
pub fn signed_part(url: &str) -> &str {
    url.split('#').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_vectors_and_our_own() {
        let ticket =
            TokenValue::parse("sM4AOVdWfPE4DxkXGEs8VMCPGGVi4C3VM0P37wVUCFvkVAy_90u5h9nbSlYy3-Sl-HhTdfl2fzFy1AOcHKP7qg")
                .unwrap();
        for (url, expected) in [
            ("http://mp.weixin.qq.com?params=value", "0f9de62fce790f9a083d5c99e95740ceb90c27ed"),
            ("http://mp.weixin.qq.com", "f4d90daf4b3bca3078ab155816175ba34c443a7b"),
            ("http://mp.weixin.qq.com?params=value#abc", "0f9de62fce790f9a083d5c99e95740ceb90c27ed"),
            ("http://mp.weixin.qq.com/?params=value", "f50191877b62b116ef830363a3a613ed652a2d5d"),
            ("https://example.com/a?x=1&y=%E4%B8%AD%E6%96%87", "528b0e6070840115f1ddc95b8874dfff383400cf"),
            ("https://example.com/a?x=1&y=中文", "3d79535641b8f95ef38e533ec211aab2d66078d1"),
            ("https://example.com/?q=a%20b+c&r=%2F", "853b6098b0a4bc786b86555c33a5a16825905e88"),
        ] {
            assert_eq!(sign_jsapi(&ticket, "Wm3WZYTPz0wzccnW", 1_414_587_457, url), expected, "{url}");
        }
    }
}
