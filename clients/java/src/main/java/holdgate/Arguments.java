package holdgate;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;

/** What both programs are started with: the words that are named, at least, and the files of TLS. */
record Arguments(List<String> words, Client.Tls tls) {

  static Arguments parse(String named, String[] given) {
    List<String> words = new ArrayList<>();
    Map<String, String> files = new HashMap<>();
    for (Iterator<String> rest = List.of(given).iterator(); rest.hasNext(); ) {
      String word = rest.next();
      if (word.startsWith("--")) {
        files.put(word, rest.next());
      } else {
        words.add(word);
      }
    }
    if (words.size() < named.split(" ").length) {
      System.err.printf("usage: %s [--ca FILE [--cert FILE --key FILE]]%n", named);
      System.exit(2);
    }
    return new Arguments(words, new Client.Tls(files.get("--ca"), files.get("--cert"), files.get("--key")));
  }
}
