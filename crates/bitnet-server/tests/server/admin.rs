//! The page of `/admin`: its headers, and what it must not have.

use bitnet_server::ServerLimits;

use crate::fixture::TestServer;

const FILES: [(&str, &str); 5] = [
    ("/admin", "text/html"),
    ("/admin/page.js", "text/javascript"),
    ("/admin/models.js", "text/javascript"),
    ("/admin/page.css", "text/css"),
    ("/admin/icon.svg", "image/svg+xml"),
];

#[test]
fn the_page_and_its_files_are_served_under_a_strict_policy() {
    let server = TestServer::start();
    for (path, media_type) in FILES {
        let answer = server.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(
            answer
                .header("content-type")
                .unwrap()
                .starts_with(media_type),
            "{path}"
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'));
        assert!(policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    }
}

#[test]
fn the_page_has_nothing_inline_and_asks_nobody_else() {
    let server = TestServer::start();
    let html = server.get("/admin").body;
    for forbidden in ["<style", "style=", "onclick", "onload", "javascript:", "//"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    for tag in html.split("<script").skip(1) {
        assert!(
            tag.starts_with(" src=\"/admin/"),
            "a script of its own: {tag:.60}"
        );
    }
    for script in ["/admin/page.js", "/admin/models.js"] {
        let script = server.get(script).body;
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            ".style",
            "localStorage",
            "sessionStorage",
            "document.cookie",
            "https:",
            "http:",
        ] {
            assert!(!script.contains(forbidden), "{forbidden}");
        }
    }
}

#[test]
fn the_page_can_be_turned_off() {
    let server = TestServer::with_limits(ServerLimits {
        shows_admin_page: false,
        ..ServerLimits::default()
    });
    for (path, _) in FILES {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}
