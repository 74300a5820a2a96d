use serde_json::json;

use super::*;

#[test]
fn a_patch_touches_only_what_it_names() {
    let patch = json!({"lifetime_seconds": 5, "latency_ms": {"max": 9}, "ip_confirmation": "needed_89503"});
    let settings = Settings::default().merged(&patch).unwrap();
    assert_eq!(settings.lifetime_seconds, 5);
    assert_eq!(settings.latency_ms, Latency { min: 0, max: 9 });
    assert_eq!(settings.ip_confirmation, IpConfirmation::Needed);
    let back = settings.merged(&json!({"lifetime_seconds": null, "latency_ms": {"max": 10}})).unwrap();
    assert_eq!(back.lifetime_seconds, 7_200);
    assert_eq!(back.latency_ms.max, 10);
}

#[test]
fn nonsense_is_refused_with_a_sentence() {
    for (patch, word) in [
        (json!([]), "object"),
        (json!({"lifetime": 5}), "lifetime"),
        (json!({"lifetime_seconds": 0}), "lifetime_seconds"),
        (json!({"whitelist": ["10.0.0.0/33"]}), "whitelist"),
        (json!({"faults": [{"kind": "errcode"}]}), "errcode"),
        (json!({"faults": [{"kind": "gremlin"}]}), "gremlin"),
        (json!({"faults": [{"kind": "busy", "calls": ["kill"]}]}), "calls"),
        (json!({"latency_ms": {"min": 2, "max": 1}}), "latency"),
        (json!({"interference": {"line": "jsapi", "mean_seconds": 1}}), "interference"),
    ] {
        let refusal = Settings::default().merged(&patch).unwrap_err();
        assert!(refusal.contains(word), "{patch}: {refusal}");
    }
}
