//! The calls that a forwarding proxy is tested with.

use super::*;

impl Served {
    async fn token(&self) -> String {
        token_of(&self.plain().await)
    }

    async fn post(&self, target: &str, body: &str) -> Value {
        self.call("POST", target, body).await.json()
    }

    fn last_appid(&self) -> Option<String> {
        self.sandbox.log(0, None).pop().unwrap().appid
    }
}

fn sns(call: &str, secret: &str, code: &str) -> String {
    format!("/sns/{call}?appid={APPID}&secret={secret}&grant_type=authorization_code&{code}")
}

#[tokio::test]
async fn a_login_code_needs_the_real_secret() {
    let served = Served::start(json!({})).await;
    let session = served.get(&sns("jscode2session", DEFAULT_SECRET, "js_code=c1")).await;
    assert!(session["session_key"].is_string() && session["openid"].as_str().unwrap().starts_with('o'), "{session}");
    assert_eq!(served.last_appid().as_deref(), Some(APPID));
    for (target, errcode) in [
        (sns("jscode2session", DEFAULT_SECRET, "js_code=bad"), 40029),
        (sns("jscode2session", DEFAULT_SECRET, "code=c1"), 41008),
        (sns("jscode2session", "wrong", "js_code=c1"), 40125),
        (sns("oauth2/access_token", "wrong", "code=c1"), 40125),
        (sns("oauth2/access_token", DEFAULT_SECRET, "code=bad"), 40029),
        (sns("jscode2session", DEFAULT_SECRET, "js_code=c1").replace(APPID, "wx0"), 40013),
        (sns("jscode2session", DEFAULT_SECRET, "js_code=c1").replace("authorization_code", "x"), 40002),
    ] {
        assert_eq!(served.get(&target).await["errcode"], errcode, "{target}");
    }
}

#[tokio::test]
async fn a_users_token_is_good_for_the_users_calls_only() {
    let served = Served::start(json!({})).await;
    let given = served.get(&sns("oauth2/access_token", DEFAULT_SECRET, "code=c1")).await;
    let (token, openid) = (token_of(&given), given["openid"].as_str().unwrap());
    assert_eq!((&given["expires_in"], given["scope"].is_string()), (&json!(7_200), true));
    let info = |token: &str, openid: &str| format!("/sns/userinfo?access_token={token}&openid={openid}");
    assert_eq!(served.get(&info(&token, openid)).await["openid"], openid);
    assert_eq!(served.last_appid().as_deref(), Some(APPID));
    assert_eq!(served.get(&info(&token, "o1")).await["errcode"], 40003);
    assert_eq!(served.get(&info(&served.token().await, openid)).await["errcode"], 40001);
    assert_eq!(served.probe(&token).await["errcode"], 40001);

    let renew =
        |token: &str| format!("/sns/oauth2/refresh_token?appid={APPID}&grant_type=refresh_token&refresh_token={token}");
    let renewed = served.get(&renew(given["refresh_token"].as_str().unwrap())).await;
    assert_eq!(renewed, given);
    assert_eq!(served.get(&renew("r1")).await["errcode"], 40030);
}

#[tokio::test]
async fn an_upload_is_counted_and_hashed() {
    let served = Served::start(json!({})).await;
    let token = served.token().await;
    let upload = |kind: &str| format!("/cgi-bin/media/upload?access_token={token}&type={kind}");
    let answer = served.post(&upload("image"), "abc").await;
    assert_eq!((&answer["size"], &answer["type"]), (&json!(3), &json!("image")));
    assert_eq!(answer["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert!(answer["media_id"].is_string() && answer["created_at"].is_u64(), "{answer}");
    let long = "a".repeat(17 * 1024 * 1024);
    assert_eq!(served.post(&upload("image"), &long).await["size"], long.len());
    let business = format!("/cgi-bin/material/add_news?access_token={token}");
    assert_eq!(served.post(&business, &long).await["errcode"], 0);
    assert_eq!(served.post(&upload("book"), "abc").await["errcode"], 40004);
    assert_eq!(served.get(&upload("image")).await["errcode"], 43002);
    assert_eq!(served.post("/cgi-bin/media/upload?type=image", "abc").await["errcode"], 41001);
}

#[tokio::test]
async fn a_download_is_as_long_as_its_id_says() {
    let served = Served::start(json!({})).await;
    let token = served.token().await;
    served.sandbox.configure(APPID, &json!({"bom": true})).unwrap();
    let file = |media_id: &str| format!("/cgi-bin/media/get?access_token={token}&media_id={media_id}");
    let reply = served.call("GET", &file("bytes-1000000"), "").await;
    for line in ["content-type: image/jpeg", "content-length: 1000000", "content-disposition: attachment"] {
        assert!(reply.head.contains(line), "{}", reply.head);
    }
    assert_eq!(reply.body.len(), 1_000_000);
    assert!(reply.body.iter().enumerate().all(|(place, byte)| usize::from(*byte) == place % 251));
    assert_eq!(served.call("GET", &file("bytes-0"), "").await.status(), "200");
    served.sandbox.configure(APPID, &json!({"bom": false})).unwrap();
    for media_id in ["bytes-2147483649", "bytes--1", "bytes-x", "m1"] {
        assert_eq!(served.get(&file(media_id)).await["errcode"], 40007, "{media_id}");
    }

    served.fault(json!({"kind": "truncated_body"})).await;
    let cut = served.call("GET", &file("bytes-1000000"), "").await;
    assert_eq!((cut.head.contains("content-length: 1000000"), cut.body.len()), (true, 500_000));
    served.fault(json!({"kind": "http_502"})).await;
    assert!(served.call("GET", &file("bytes-1000000"), "").await.body.starts_with(b"<html>"));
}

#[tokio::test]
async fn an_echo_tells_what_arrived() {
    let served = Served::start(json!({})).await;
    let token = served.token().await;
    let target = format!("/cgi-bin/echo//a%20b?x=%2F&access_token={token}&x=2");
    let body = "b".repeat(5_000);
    let echo = served.call("PATCH", &target, &body).await.json();
    assert_eq!((&echo["method"], &echo["path"]), (&json!("PATCH"), &json!("/cgi-bin/echo//a%20b")));
    assert_eq!(echo["query"], format!("x=%2F&access_token={token}&x=2"));
    assert_eq!((&echo["headers"]["host"], &echo["body_length"]), (&json!("sandbox"), &json!(5_000)));
    assert_eq!(echo["body"], body[..4_096]);
    assert_eq!(served.get("/cgi-bin/echo/?access_token=x").await["errcode"], 40014);
}

#[tokio::test]
async fn business_calls_can_be_struck_alone() {
    let served = Served::start(json!({})).await;
    let token = served.token().await;
    let target = format!("/cgi-bin/echo/?access_token={token}");
    for errcode in [40001, 40014, 42001] {
        let fault = json!({"kind": "errcode", "errcode": errcode, "calls": ["business"], "times": 1});
        served.fault(fault).await;
        assert!(served.probe(&token).await["ip_list"].is_array());
        assert_eq!(served.get(&target).await["errcode"], errcode);
        assert_eq!(served.get(&target).await["errcode"], 0);
    }
    served.fault(json!({"kind": "reset_before", "calls": ["business"], "times": 1})).await;
    assert_eq!(served.raw("GET", &target, "").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    served.fault(json!({"kind": "slow_drip", "calls": ["business"], "ms": 1})).await;
    assert_eq!(served.get(&target).await["errcode"], 0);
}
