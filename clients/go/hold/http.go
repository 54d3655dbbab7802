package hold

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	quota "holdgate/gateway/gen/quota/v1"
)

// AddHeaders puts the headers that a grant's answer is to have on it.
func AddHeaders(w http.ResponseWriter, decision *quota.Decision) {
	for name, value := range decision.GetHttp().GetHeaders() {
		w.Header().Set(name, value)
	}
}

// WriteError answers for work that may not go ahead: a refusal in the policy's own form, anything else with a 5xx.
func WriteError(w http.ResponseWriter, err error) {
	var refused *Refused
	switch {
	case errors.As(err, &refused) && refused.queued():
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusTooManyRequests, errorBody("queued", "All places are taken. Please try again shortly."))
	case errors.As(err, &refused):
		writeRefusal(w, refused.Decision)
	case Undecided(err):
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, errorBody("quota_unavailable", "Please try again shortly."))
	default:
		writeJSON(w, http.StatusInternalServerError, errorBody("internal", "The request could not be checked."))
	}
}

func writeRefusal(w http.ResponseWriter, decision *quota.Decision) {
	AddHeaders(w, decision)
	refusal, answer := decision.Refusal, decision.GetHttp()
	if answer.GetBody() != "" {
		writeJSON(w, int(answer.Status), []byte(answer.Body))
		return
	}
	if refusal.RetryAfterMs != nil {
		w.Header().Set("Retry-After", strconv.FormatInt((*refusal.RetryAfterMs+999)/1000, 10))
	}
	writeJSON(w, int(refusal.HttpStatus), errorBody(refusal.Code, refusal.Message))
}

func errorBody(code, message string) []byte {
	body, _ := json.Marshal(map[string]any{"error": map[string]string{"code": code, "message": message}})
	return body
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a caller who went away is told nothing
}
