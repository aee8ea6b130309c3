package roomgate_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/roomgate/roomgate/"

// Where the modules we use live.
const (
	chi              = "github.com/go-chi/chi/v5"
	goleak           = "go.uber.org/goleak"
	goredis          = "github.com/redis/go-redis/v9"
	hdr              = "github.com/HdrHistogram/hdrhistogram-go"
	isatty           = "github.com/mattn/go-isatty"
	jwt              = "github.com/golang-jwt/jwt/v5"
	kong             = "github.com/alecthomas/kong"
	openapi          = "github.com/pb33f/libopenapi"
	openapiValidator = "github.com/pb33f/libopenapi-validator"
	miniredis        = "github.com/alicebob/miniredis/v2"
	prometheus       = "github.com/prometheus/client_golang/prometheus"
	rate             = "golang.org/x/time/rate"
	tint             = "github.com/lmittmann/tint"
	websocket        = "github.com/coder/websocket"
	xsync            = "golang.org/x/sync"
)

// allowed says what each package may import besides the standard library, of
// which net/http has to be listed, too. An entry stands for its subpackages as
// well, but for those of our own module. Anything else is a change of design,
// so it should take a change here.
//
// The directions in short: protocol imports nothing; gateway knows no Redis;
// roomstore knows no socket and not the wire; pubsub knows no room; the
// programs that are clients know nothing of the server.
var allowed = map[string][]string{
	"protocol":  {},
	"lua":       {goredis},
	"roomstore": {goredis, xsync, module + "lua"},
	"pubsub":    {goredis, xsync},

	"gateway": {
		"net/http", chi, websocket, rate, xsync,
		module + "protocol", module + "pubsub", module + "roomstore",
		module + "gateway/auth", module + "gateway/console", module + "gateway/serverapi", module + "gateway/webhook",
		module + "internal/nonblock",
	},
	"gateway/auth":      {jwt},
	"gateway/console":   {"net/http", chi, module + "protocol"},
	"gateway/serverapi": {"net/http", chi, module + "protocol", module + "roomstore"},
	"gateway/webhook":   {"net/http", xsync, module + "protocol", module + "roomstore"},

	"client": {"net/http", websocket, module + "protocol"},

	"cmd/roomgate": {
		"net/http", chi, goredis, isatty, kong, miniredis, prometheus, tint, xsync,
		module + "protocol", module + "lua", module + "pubsub", module + "roomstore", module + "gateway",
		module + "gateway/auth", module + "gateway/console", module + "gateway/serverapi", module + "gateway/webhook",
	},
	// Redis and the WebSocket library are for "roombench bare", the minimal server to
	// compare with; what generates load knows neither.
	"cmd/roombench": {
		"net/http", goredis, hdr, isatty, jwt, kong, websocket, xsync,
		module + "client", module + "protocol", module + "internal/nonblock",
	},
	"cmd/roomctl": {"net/http", kong, tint, module + "client", module + "protocol"},

	"internal/apitest":    {"net/http", openapi, openapiValidator},
	"internal/faultproxy": {},
	"internal/freeport":   {},
	"internal/gatetest":   {"net/http", goleak, goredis, module + "internal/faultproxy", module + "internal/redistest"},
	"internal/nonblock":   {},
	"internal/redistest":  {goleak, goredis, miniredis, module + "internal/freeport"},
}

// Imports point one way. Tests are exempt: they may look at anything.
func TestImports(t *testing.T) {
	t.Parallel()
	checked := 0
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if base := entry.Name(); base != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "node_modules") {
				return filepath.SkipDir // as the go command does, and what npm installs
			}
			return nil
		case !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(name))
		list, known := allowed[pkg]
		if !known {
			t.Errorf("%s: package %s is not in allowed: say there what it may import", name, pkg)
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !mayImport(list, imp) {
				t.Errorf("%s imports %s, which package %s may not: see allowed", name, imp, pkg)
			}
		}
		checked++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Error("found no Go files to check")
	}
}

func mayImport(list []string, imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	switch {
	case imp == "C":
		return false // the image has no C library
	case !strings.Contains(first, ".") && imp != "net/http" && !strings.HasPrefix(imp, "net/http/"):
		return true // the standard library
	case strings.HasPrefix(imp, module):
		return slices.Contains(list, imp)
	}
	return slices.ContainsFunc(list, func(entry string) bool {
		return imp == entry || strings.HasPrefix(imp, entry+"/")
	})
}

// The rule itself: what is meant to be refused is.
func TestMayImport(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pkg, imp string
		want     bool
	}{
		{"protocol", "encoding/json", true},
		{"protocol", "net/http", false},
		{"protocol", websocket, false},
		{"gateway", goredis, false},
		{"gateway", module + "lua", false},
		{"gateway", module + "client", false},
		{"gateway", module + "roomstore", true},
		{"gateway", "net/http/httputil", true},
		{"roomstore", "net/http", false},
		{"roomstore", "net/http/httptrace", false},
		{"roomstore", module + "protocol", false},
		{"roomstore", websocket, false},
		{"roomstore", goredis + "/maintnotifications", true},
		{"roomstore", goredis + "x", false},
		{"pubsub", module + "roomstore", false},
		{"pubsub", xsync + "/errgroup", true},
		{"pubsub", "net/http", false},
		{"client", module + "gateway", false},
		{"cmd/roombench", module + "gateway", false},
		{"cmd/roombench", module + "roomstore", false},
		{"cmd/roomgate", module + "internal/redistest", false},
		{"cmd/roomgate", "C", false},
	} {
		if got := mayImport(allowed[tt.pkg], tt.imp); got != tt.want {
			t.Errorf("%s, %s: got %v, want %v", tt.pkg, tt.imp, got, tt.want)
		}
	}
}
