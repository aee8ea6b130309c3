package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// What is given as the console is served under /console/ and nowhere else; with
// none there is nothing.
func TestGateway_Handler_console(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, tt := range []struct {
		console http.Handler
		path    string
		want    int
	}{
		{page, "/console/", http.StatusTeapot},
		{page, "/console/play", http.StatusTeapot},
		{page, "/console", http.StatusFound},
		{page, "/", http.StatusNotFound},
		{page, "/v1/console/", http.StatusNotFound},
		{nil, "/console/", http.StatusNotFound},
		{nil, "/console", http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		New(nil, nil, nil, Config{Console: tt.console}).Handler().ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
		if w.Code != tt.want {
			t.Errorf("%s, console %v: got %d, want %d", tt.path, tt.console != nil, w.Code, tt.want)
		}
	}
}
