"""The path below the mount, its canonical form, and a hint for unknown paths.

SDKs append fixed paths to the base URL that a user typed. A base URL with one version too many or too few, or with a
trailing slash, results in a path that still identifies one endpoint. Such a path is treated as that endpoint: identity
and grants are checked by the endpoint, never by its spelling. Dot segments and other letter cases are other paths.
"""

from starlette.types import Scope

_VERSIONS = frozenset({"v1", "v1beta"})
_VERSIONED = frozenset({"chat", "completions", "embeddings", "messages", "models", "responses"})
"""The first segment after the version."""
_UNVERSIONED = frozenset({"health", "metrics", "ready"})
_SPELLED_OUT = ("/v1beta/models", *(f"/v1/{name}" for name in sorted(_VERSIONED)))
_DOTS = frozenset({".", ".."})


def routed_path(scope: Scope) -> str:
    """Return the path below the mount.

    Servers and frameworks differ in whether `path` contains `root_path`. Behind a proxy that strips its prefix, it
    contains only what Starlette's mount has added to the server's own `app_root_path`.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if not root:
        return path
    if _is_below(path, root):
        return path[len(root) :]
    server: str = scope.get("app_root_path", "")
    if not (server and root.startswith(server)):
        return path
    mount = root[len(server) :]
    for prefix in (server.rstrip("/") + mount, mount):
        if _is_below(path, prefix):
            return path[len(prefix) :]
    return path


def canonical_path(path: str) -> str:
    """Return the canonical path of the endpoint that a path identifies; the path itself if that is ambiguous.

    Doubled and trailing slashes, and repeated or missing versions, are corrected: `/v1/v1/messages`,
    `/chat/completions`, `//v1/models/`.
    """
    if path.startswith(_SPELLED_OUT) and "//" not in path and not path.endswith("/"):
        return path
    parts = [part for part in path.split("/") if part]
    if not _DOTS.isdisjoint(parts):
        return path
    names = parts
    while names and names[0] in _VERSIONS:
        names = names[1:]
    if not names:
        return path
    versions = parts[: len(parts) - len(names)]
    if names[0] in _UNVERSIONED and not versions:
        return "/" + names[0] if len(names) == 1 else path
    if names[0] not in _VERSIONED:
        return path
    version = versions[-1] if versions and names[0] == "models" else "v1"
    return "/".join(("", version, *names))


def base_url_hint(protocol: str, scope: Scope) -> str:
    """Return a hint: the base URL that the SDK of this protocol needs, with the mount of this request."""
    mount: str = scope.get("root_path", "").rstrip("/")
    if protocol == "anthropic-messages":
        return f"the Anthropic SDK takes base_url=<this server>{mount}"
    if protocol == "gemini":
        return f"Google's SDK takes HttpOptions(base_url=<this server>{mount})"
    return f"the OpenAI SDK takes base_url=<this server>{mount}/v1"


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
