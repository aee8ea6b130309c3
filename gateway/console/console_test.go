package console

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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
