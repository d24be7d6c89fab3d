// A receiver of jobrelay's callbacks with nothing but the standard library.
//
//	WEBHOOK_SECRETS='whsec_… whsec_…' LISTEN=127.0.0.1:8080 go run ./docs/receivers/go
package main

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tolerance = 5 * time.Minute // between the timestamp and our clock
	maxBody   = 1 << 20         // bytes
)

func main() {
	keys, err := parseKeys(os.Getenv("WEBHOOK_SECRETS"))
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{
		Addr:              cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8080"),
		Handler:           &receiver{keys: keys, seen: map[string]bool{}, status: map[string]int{}},
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

// parseKeys takes the keys that are in force, with spaces between. There must
// be one: with an empty key anybody could sign.
func parseKeys(secrets string) (keys [][]byte, err error) {
	for secret := range strings.FieldsSeq(secrets) {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(key) < 24 {
			return nil, errors.New("WEBHOOK_SECRETS holds something that is no key")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("WEBHOOK_SECRETS is empty; give it the keys of jobrelay's key file")
	}
	return keys, nil
}

// verify tells a callback of jobrelay's from anybody else's.
func verify(keys [][]byte, header http.Header, body []byte, now time.Time) error {
	id, timestamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil {
		return errors.New("webhook-id or webhook-timestamp is missing")
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > tolerance || age < -tolerance {
		return errors.New("the timestamp is too far from our clock")
	}
	for signature := range strings.FieldsSeq(header.Get("webhook-signature")) {
		version, encoded, _ := strings.Cut(signature, ",")
		given, err := base64.StdEncoding.DecodeString(encoded)
		if version != "v1" || err != nil {
			continue
		}
		for _, key := range keys {
			mac := hmac.New(sha256.New, key)
			fmt.Fprintf(mac, "%s.%s.", id, timestamp)
			mac.Write(body)
			if hmac.Equal(given, mac.Sum(nil)) { // in constant time
				return nil
			}
		}
	}
	return errors.New("no signature fits")
}

// receiver keeps in memory what a real one keeps in its database: the ids it
// has seen (a unique column, written with the work in one transaction), and how
// far each job is.
type receiver struct {
	keys [][]byte

	mu     sync.Mutex
	seen   map[string]bool
	status map[string]int
}

func (rc *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if err := verify(rc.keys, r.Header, body, time.Now()); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var callback struct {
		ID     string          `json:"id"`
		Status int             `json:"status"`
		Detail json.RawMessage `json:"detail"`
	}
	if err := json.Unmarshal(body, &callback); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	rc.store(r.Header.Get("webhook-id"), callback.ID, callback.Status)
	w.WriteHeader(http.StatusNoContent)
}

// store takes a callback once. Callbacks come in order, 0, 1 and one of 2, 3
// and 99; one that was replayed may come late, and sets nothing back.
func (rc *receiver) store(webhookID, job string, status int) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	if rc.seen[webhookID] {
		return
	}
	rc.seen[webhookID] = true
	if last, known := rc.status[job]; known && min(status, 2) <= min(last, 2) {
		fmt.Println(job, status, "late")
		return
	}
	rc.status[job] = status
	fmt.Println(job, status)
}
