// Package apitest holds what the server API answers in tests against its
// description, docs/openapi.yaml.
package apitest

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// description is the description, read once.
var description = sync.OnceValues(func() (*described, error) {
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return &described{v: v, model: &model.Model}, nil
})

type described struct {
	v     validator.Validator
	model *v3.Document
}

func read(t testing.TB) *described {
	t.Helper()
	d, err := description()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Valid fails the test if the description is not one as OpenAPI demands.
func Valid(t testing.TB) {
	t.Helper()
	if ok, errs := read(t).v.ValidateDocument(); !ok {
		t.Errorf("docs/openapi.yaml: %s", text(errs))
	}
}

// Operations gives what is described: method and path of each.
func Operations(t testing.TB) (all []string) {
	t.Helper()
	for path, item := range read(t).model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			all = append(all, strings.ToUpper(method)+" "+path)
		}
	}
	return all
}

// Answer fails the test if an answer to a request is not one that the description
// has. path is the path as it was sent; what the API does not have is not looked at.
func Answer(t testing.TB, method, path string, status int, header http.Header, body []byte) {
	t.Helper()
	d := read(t)
	path, _, _ = strings.Cut(path, "?")
	parts := strings.Split(path, "/")
	if len(parts) > 4 || len(parts) == 4 && parts[3] != "" {
		parts[3] = "room" // whatever it is called
	}
	path = strings.Join(parts, "/")
	if status == http.StatusMethodNotAllowed || status == http.StatusNotFound && strings.Contains(string(body), "no such resource") {
		return
	}
	req, err := http.NewRequest(method, "http://gateway"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res := &http.Response{StatusCode: status, Header: header, Body: newBody(body), Request: req}
	if ok, errs := d.v.ValidateHttpResponse(req, res); !ok {
		t.Errorf("%s %s: %d %s is not as docs/openapi.yaml has it: %s", method, path, status, body, text(errs))
	}
}

func newBody(b []byte) *body { return &body{bytes.NewReader(b)} }

type body struct{ *bytes.Reader }

func (*body) Close() error { return nil }

// streamed says which schema the data of an event of a stream has.
var streamed = map[string]string{
	"opened":       "StreamOpened",
	"memberJoined": "MemberEvent", "memberLeft": "MemberEvent", "memberMoved": "MemberEvent",
	"message": "MessageEvent", "command": "MessageEvent",
	"attributes": "AttributesEvent", "memberAttributes": "MemberAttributesEvent",
	"destroyed": "DestroyedEvent", "healed": "HealedEvent", "lost": "LostEvent", "end": "StreamEnd",
	"event": "Event",
}

// validating is held while a schema is looked at: the library writes to it then.
var validating sync.Mutex

// Event fails the test if an event of a stream is not one that the description has.
func Event(t testing.TB, name string, data []byte) {
	t.Helper()
	schema, ok := streamed[name]
	if !ok {
		t.Errorf("docs/openapi.yaml has no event %q", name)
		return
	}
	proxy, ok := read(t).model.Components.Schemas.Get(schema)
	if !ok {
		t.Fatalf("docs/openapi.yaml has no schema %s", schema)
	}
	validating.Lock()
	defer validating.Unlock()
	if ok, errs := schema_validation.NewSchemaValidator().ValidateSchemaBytesWithVersion(proxy.Schema(), data, 3.1); !ok {
		t.Errorf("event %s: %s is no %s of docs/openapi.yaml: %s", name, data, schema, text(errs))
	}
}

func text(errs []*errors.ValidationError) string {
	var b strings.Builder
	for _, e := range errs {
		fmt.Fprintf(&b, "%s: %s", e.Message, e.Reason)
		for _, s := range e.SchemaValidationErrors {
			fmt.Fprintf(&b, "; %s at %s", s.Reason, s.KeywordLocation)
		}
		b.WriteString("\n")
	}
	return b.String()
}
