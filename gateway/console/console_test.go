package console

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What is served is what go generate makes of the sources.
func TestStatic_isOfTheSources(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("console.go")
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(source), "//go:generate ")
	command, _, _ = strings.Cut(command, "\n")
	fresh := t.TempDir()
	args := strings.Fields(strings.Replace(command, "--outdir=static", "--outdir="+fresh, 1))
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	want, got := files(t, os.DirFS(fresh)), files(t, os.DirFS("static"))
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("static/%s is missing: run go generate ./gateway/console", name)
		} else if !bytes.Equal(got[name], want[name]) {
			t.Errorf("static/%s is not of the sources: run go generate ./gateway/console", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("static/%s is made of no source: delete it", name)
		}
	}
}

func files(t *testing.T, tree fs.FS) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		all[filepath.ToSlash(name)], err = fs.ReadFile(tree, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Without the playground nothing of it is served, and with it everything is.
func TestNew_files(t *testing.T) {
	t.Parallel()
	for _, playground := range []bool{false, true} {
		h := New(Config{Playground: playground})
		for path, kind := range map[string]string{
			"/console/":              "text/html; charset=utf-8",
			"/console/console.js":    "text/javascript; charset=utf-8",
			"/console/style.css":     "text/css; charset=utf-8",
			"/console/icon.svg":      "image/svg+xml",
			"/console/settings.json": "application/json",
			"/console/play":          "text/html; charset=utf-8",
			"/console/play.js":       "text/javascript; charset=utf-8",
			"/console/index.html":    "", // under one name only
			"/console/play.html":     "",
			"/console/console.ts":    "",
			"/console/../console.go": "",
		} {
			want := http.StatusOK
			if kind == "" || strings.HasPrefix(path, "/console/play") && !playground {
				want = http.StatusNotFound
			}
			got := get(t, h, path)
			if got.Code != want {
				t.Errorf("playground %v, %s: got %d, want %d", playground, path, got.Code, want)
			} else if want == http.StatusOK && got.Header().Get("Content-Type") != kind {
				t.Errorf("%s: got %q, want %q", path, got.Header().Get("Content-Type"), kind)
			}
		}
	}
}

// A page loads its own files only, and nothing that is written into it; the
// playground alone may connect to other gateways.
func TestNew_policy(t *testing.T) {
	t.Parallel()
	h := New(Config{Playground: true})
	for path, elsewhere := range map[string]bool{"/console/": false, "/console/play": true, "/console/console.js": false, "/console/settings.json": false, "/console/none": false} {
		header := get(t, h, path).Header()
		csp := header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'self'") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: policy is %q", path, csp)
		}
		if got := strings.Contains(csp, "ws:"); got != elsewhere {
			t.Errorf("%s: may connect elsewhere: got %v, want %v (%q)", path, got, elsewhere, csp)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers are %v", path, header)
		}
	}
	inline := regexp.MustCompile(`(?i)<script[^>]*>\s*[^<\s]|<style|\sstyle=|\son\w+=|https?://`)
	for _, page := range []string{"/console/", "/console/play"} {
		if found := inline.FindString(get(t, h, page).Body.String()); found != "" {
			t.Errorf("%s has %q written into it", page, found)
		}
	}
}

// The pages are told the key that is for everybody, and no other.
func TestNew_settings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Node: "gw-1", Version: "1.2"}, `{"node":"gw-1","version":"1.2","playground":false}`},
		{Config{Node: "gw-1", Version: "1.2", Playground: true, APIKey: "dev"}, `{"node":"gw-1","version":"1.2","playground":true,"apiKey":"dev"}`},
	} {
		w := get(t, New(tt.cfg), "/console/settings.json")
		if got := w.Body.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		if got := w.Header().Get("Cache-Control"); got != "no-store" {
			t.Errorf("Cache-Control: got %q, want no-store", got)
		}
	}
}

// A browser that has a file asks whether it has changed, and is told when it has not.
func TestNew_unchanged(t *testing.T) {
	t.Parallel()
	h := New(Config{})
	first := get(t, h, "/console/console.js")
	tag := first.Header().Get("ETag")
	if tag == "" || first.Header().Get("Cache-Control") != "no-cache" {
		t.Fatalf("headers are %v", first.Header())
	}
	if got := get(t, h, "/console/console.js", "If-None-Match", tag).Code; got != http.StatusNotModified {
		t.Errorf("got %d, want 304", got)
	}
	if got := get(t, h, "/console/console.js", "If-None-Match", `"other"`).Code; got != http.StatusOK {
		t.Errorf("got %d, want 200", got)
	}
}
