// Package console serves the web pages for people: the console and, for development, the
// playground. It knows the files and their headers and nothing else; what the pages show they
// get from the server API and over WebSocket, as everybody does.
//
// The sources are in web, and what is served is in static: a bundle that is kept in the
// repository, so that building the gateway takes Go alone. After a change, run go generate.
package console

import "embed"

//go:generate go tool esbuild web/console.ts web/play.ts web/style.css web/index.html web/play.html --bundle --minify --format=esm --target=es2022 --charset=utf8 --legal-comments=none --loader:.html=copy --entry-names=[name] --log-level=warning --outdir=static

//go:embed static
var static embed.FS
