// Package console serves the web pages for people: the console and, for development, the
// playground. It knows the files and their headers and nothing else; what the pages show they
// get from the server API and over WebSocket, as everybody does.
//
// The sources are in web, and what is served is in static: a bundle that is kept in the
// repository, so that building the gateway takes Go alone. After a change, run go generate.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

//go:generate go tool esbuild web/console.ts web/play.ts web/style.css web/icon.svg web/index.html web/play.html --bundle --minify --format=esm --target=es2022 --charset=utf8 --legal-comments=none --loader:.html=copy --loader:.svg=copy --entry-names=[name] --log-level=warning --outdir=static

//go:embed static
var static embed.FS

// Config of the pages.
type Config struct {
	// Playground serves the playground, too.
	Playground bool
	// APIKey is filled in for whoever opens the pages, so it is no secret: for
	// development only.
	APIKey string
	// Node and Version say which gateway this is.
	Node, Version string
}

// What each page may load, and from where: its own files and nothing written into
// it. The playground connects to gateways that a person names.
const (
	policy           = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
	playgroundPolicy = policy + "; connect-src 'self' ws: wss:"
)

// types are those of the files there are; the system's own list may have others.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// New returns the handler of everything under /console/:
//
//	GET /console/               the console
//	GET /console/play           the playground
//	GET /console/settings.json  what the pages are told of the gateway
//	GET /console/{file}         what they load
//
// Everybody may have the pages; what they show is behind an API key.
func New(cfg Config) http.Handler {
	r := chi.NewRouter()
	r.Use(secure)
	r.Get("/console/settings.json", settings(cfg))
	entries, err := fs.ReadDir(static, "static")
	if err != nil {
		panic(err) // they are part of this program
	}
	for _, entry := range entries {
		name, csp := entry.Name(), policy
		where := "/console/" + name
		switch name {
		case "index.html":
			where = "/console/"
		case "play.html":
			where, csp = "/console/play", playgroundPolicy
		}
		if strings.HasPrefix(name, "play.") && !cfg.Playground {
			continue
		}
		r.Get(where, file(name, csp))
	}
	return r
}

// secure sets the headers that all answers have.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// file serves one of the embedded files. A browser asks each time whether it has
// changed: those of the next version have the same names.
func file(name, csp string) http.HandlerFunc {
	content, err := static.ReadFile("static/" + name)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(content)
	tag := fmt.Sprintf("%q", hex.EncodeToString(sum[:8]))
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", csp)
		h.Set("Content-Type", types[path.Ext(name)])
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	}
}

func settings(cfg Config) http.HandlerFunc {
	told := struct {
		Node       string `json:"node"`
		Version    string `json:"version"`
		Playground bool   `json:"playground"`
		APIKey     string `json:"apiKey,omitempty"`
	}{cfg.Node, cfg.Version, cfg.Playground, cfg.APIKey}
	text, err := json.Marshal(told)
	if err != nil {
		panic(err) // strings and a bool
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(text)
	}
}
