package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed static
var staticFiles embed.FS

// asset is a file that pages name, by a name that has its hash in it.
type asset struct {
	name, kind, etag string
	content          []byte
}

// assets are by the name in the source, and by the one that pages have.
var assets, assetsByAddress = readAssets()

func readAssets() (byFile map[string]*asset, byAddress map[string]*asset) {
	byFile, byAddress = map[string]*asset{}, map[string]*asset{}
	files, err := fs.Glob(staticFiles, "static/*")
	if err != nil {
		panic(err) // the pattern is fixed
	}
	for _, file := range files {
		content, err := staticFiles.ReadFile(file)
		if err != nil {
			panic(err) // it is embedded
		}
		sum := sha256.Sum256(content)
		hash := hex.EncodeToString(sum[:6])
		ext := path.Ext(file)
		base := path.Base(file)
		a := &asset{name: base[:len(base)-len(ext)] + "." + hash + ext, kind: mime.TypeByExtension(ext), etag: `"` + hash + `"`, content: content}
		byFile[base], byAddress[a.name] = a, a
	}
	return byFile, byAddress
}

// static is GET /static/{file}: what has its hash in its name never changes.
func static(w http.ResponseWriter, r *http.Request) {
	a := assetsByAddress[r.PathValue("file")]
	if a == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", a.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.content))
}
